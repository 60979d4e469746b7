#pragma once

// The numbers of a network: one flat aligned buffer of what is trained, one of what is not. Gradients and
// optimiser moments have the same type and only the first.

#include <cmath>
#include <span>
#include <string>
#include <vector>

#include <mox/compose/signals.hpp>
#include <mox/core/random.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

// Layers that add into the residual stream; each block of a usual network has two.
template <class L>
constexpr index_t residual_count() {
    index_t n = 0;
    if constexpr (requires { L::name; }) {
        if (std::string_view(L::name) == "residual") n = 1;
    }
    for_each_index<children_of<L>::size>(
        [&](auto i) { n += repetitions<L>() * residual_count<typename children_of<L>::template at<i>>(); });
    return n;
}

}  // namespace detail

namespace init {

/// Linear maps normal with standard deviation 1/sqrt(inputs), those that write into the residual stream
/// scaled by 1/sqrt(residual additions); embeddings and routers 0.02; norm gains 1, biases 0.
struct standard_t {
    double deviation(const parameter& p, index_t residual_additions) const {
        double s = 0;
        switch (p.init) {
        case fill::fan_in:
            s = 1.0 / std::sqrt(static_cast<double>(p.rows));
            break;
        case fill::small:
        case fill::embedding:
            s = 0.02;
            break;
        case fill::normal:
            s = p.constant;
            break;
        case fill::zeros:
        case fill::ones:
        case fill::uniform_cols:
        case fill::uniform_rows:
        case fill::sparse_rows:
        case fill::constant:
            break;
        }
        if (p.writes_residual && residual_additions > 0) {
            s /= std::sqrt(static_cast<double>(residual_additions));
        }
        return s;
    }
};
inline constexpr standard_t standard{};

}  // namespace init

/// A tensor of a network, for loading, saving and looking: its path, its logical shape [count, rows, cols]
/// (y = x W; rows are inputs), its place in the buffer that spec.trained names.
struct tensor_info {
    std::string path;
    parameter spec;
    index_t offset = 0;
    index_t ordinal = 0;
};

/// All parameters of `Net`, or their gradients or moments.
template <class Net, class T = float>
class params {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>,
                  "mox::params: the scalar type must be float or double");
    static_assert(check_network<Net>());

public:
    using network = Net;
    using scalar = T;

    /// All zeros, as gradients and moments begin: no memory for what is not trained. Weights get that memory
    /// with initial values or with the first write to such a tensor.
    params() : trained_(parameter_extent<Net, T>().trained) {}

    /// Initial values from a policy (init::standard) and a seed. Number i of a tensor is a function of the
    /// seed, the tensor, the expert and i only: it depends neither on the scalar type nor on how many experts
    /// there are.
    template <class Init>
    params(const Init& policy, std::uint64_t seed) : params() {
        frozen_ = buffer<T>(frozen_size);
        constexpr index_t additions = detail::residual_count<Net>();
        for_each_parameter<Net, T>([&](const parameter& p, index_t offset, const std::string&,
                                       index_t ordinal) {
            const double deviation = policy.deviation(p, additions);
            for (index_t m = 0; m < p.count; ++m) {
                const random_stream stream(seed, static_cast<std::uint64_t>(ordinal) << 32 |
                                                     static_cast<std::uint64_t>(m));
                const random_stream places(seed + 1, static_cast<std::uint64_t>(ordinal) << 32);
                std::vector<double> whole;  // of a packed matrix
                if (p.packing) whole.reserve(static_cast<std::size_t>(p.rows * p.logical_cols()));
                std::uint64_t i = 0;
                for (index_t k = 0; k < p.rows; ++k) {
                    index_t left = p.row_values;  // of this row, for sparse_rows
                    for (index_t n = 0; n < p.logical_cols(); ++n, ++i) {
                        double v = p.init == fill::ones ? 1.0 : 0.0;
                        if (p.init == fill::constant) v = p.constant;
                        if (deviation > 0) v = deviation * stream.normal(i);
                        if (p.init == fill::uniform_cols || p.init == fill::uniform_rows) {
                            const index_t inputs = p.init == fill::uniform_cols ? p.cols : p.rows;
                            v = (2 * stream.uniform(i) - 1) / std::sqrt(static_cast<double>(inputs));
                        }
                        // Each of the columns that are left is as likely as the others.
                        if (p.init == fill::sparse_rows &&
                            places.uniform(i) * static_cast<double>(p.cols - n) < static_cast<double>(left)) {
                            v = stream.normal(i) / static_cast<double>(p.rows);
                            --left;
                        }
                        if (p.packing) {
                            whole.push_back(v);
                        } else {
                            buffer_of(p)[offset + element_offset<T>(p, m, k, n)] = static_cast<T>(v);
                        }
                    }
                }
                if (p.packing) {
                    p.packing->pack(whole.data(), p.rows, p.cols, p.gated(),
                                    buffer_of(p).data() + offset + element_offset<T>(p, m, 0, 0));
                }
            }
            index_values(p, buffer_of(p).data() + offset);
        });
    }

    param_ref<Net, T> ref() noexcept { return param_ref<Net, T>(trained_.data(), frozen_.data()); }
    param_ref<Net, const T> ref() const noexcept {
        return param_ref<Net, const T>(trained_.data(), frozen_.data());
    }

    /// Everything that is trained, padding included, for element-wise work.
    std::span<T> flat() noexcept { return span_of<T>(trained_); }
    std::span<const T> flat() const noexcept { return span_of<const T>(trained_); }
    /// Everything that is not trained; empty in gradients and moments.
    std::span<const T> frozen() const noexcept { return span_of<const T>(frozen_); }

    /// Whether a network can run with these numbers: false for gradients of a network with frozen layers.
    bool complete() const noexcept { return frozen_.size() == frozen_size; }

    void zero() noexcept {
        trained_.zero();
        frozen_.zero();
    }

    /// All tensors in the order of the network.
    static std::vector<tensor_info> tensors() {
        std::vector<tensor_info> all;
        for_each_parameter<Net, T>(
            [&](const parameter& p, index_t offset, const std::string& path, index_t ordinal) {
                all.push_back({path, p, offset, ordinal});
            });
        return all;
    }

    /// Number of parameters, padding not counted.
    static index_t count() {
        index_t n = 0;
        for_each_parameter<Net, T>(
            [&](const parameter& p, index_t, const std::string&, index_t) { n += p.logical_size(); });
        return n;
    }
    /// Number of those that are trained.
    static index_t trained_count() {
        index_t n = 0;
        for_each_parameter<Net, T>([&](const parameter& p, index_t, const std::string&, index_t) {
            n += p.trained ? p.logical_size() : 0;
        });
        return n;
    }

    /// Bytes in memory of one tensor.
    static index_t bytes(const tensor_info& t) {
        return tensor_elements<T>(t.spec) * static_cast<index_t>(sizeof(T));
    }

    /// The values of one tensor, row-major [count, rows, cols]; those that the codes stand for, if packed.
    std::vector<T> read(const tensor_info& t) const {
        check::that(t.spec.trained || complete(), "mox::params::read",
                    "tensor '" + t.path + "' is frozen, and gradients hold only what is trained");
        std::vector<T> v;
        v.reserve(static_cast<std::size_t>(t.spec.logical_size()));
        const buffer<T>& from = t.spec.trained ? trained_ : frozen_;
        if (t.spec.packing) {
            std::vector<double> whole(static_cast<std::size_t>(t.spec.rows * t.spec.logical_cols()));
            for (index_t m = 0; m < t.spec.count; ++m) {
                t.spec.packing->unpack(from.data() + t.offset + element_offset<T>(t.spec, m, 0, 0),
                                       t.spec.rows, t.spec.cols, t.spec.gated(), whole.data());
                for (const double w : whole) v.push_back(static_cast<T>(w));
            }
            return v;
        }
        visit(t, [&](index_t at) { v.push_back(from[at]); });
        return v;
    }
    std::vector<T> read(std::string_view path) const { return read(find("mox::params::read", path)); }

    /// Sets one tensor from row-major values [count, rows, cols]; packed ones are rounded to their format.
    void write(const tensor_info& t, std::span<const T> v) {
        check::size("mox::params::write", "values", "elements (tensor '" + t.path + "')",
                    t.spec.logical_size(), ssize_of(v));
        if (!t.spec.trained && !complete()) frozen_ = buffer<T>(frozen_size);
        buffer<T>& to = buffer_of(t.spec);
        const T* from = v.data();
        if (t.spec.packing) {
            const index_t size = t.spec.rows * t.spec.logical_cols();
            for (index_t m = 0; m < t.spec.count; ++m, from += size) {
                const std::vector<double> whole(from, from + size);
                t.spec.packing->pack(whole.data(), t.spec.rows, t.spec.cols, t.spec.gated(),
                                     to.data() + t.offset + element_offset<T>(t.spec, m, 0, 0));
            }
            return;
        }
        visit(t, [&](index_t at) { to[at] = *from++; });
        index_values(t.spec, to.data() + t.offset);
    }
    void write(std::string_view path, std::span<const T> v) { write(find("mox::params::write", path), v); }

private:
    static constexpr index_t frozen_size = parameter_extent<Net, T>().frozen;

    buffer<T>& buffer_of(const parameter& p) noexcept { return p.trained ? trained_ : frozen_; }

    template <class U, class Buffer>
    static std::span<U> span_of(Buffer& b) noexcept {
        return {b.data(), static_cast<std::size_t>(b.size())};
    }

    static tensor_info find(std::string_view call, std::string_view path) {
        std::string known;
        for (auto& t : tensors()) {
            if (t.path == path) return t;
            known += known.empty() ? t.path : ", " + t.path;
        }
        check::fail(call, "there is no tensor '" + std::string(path) + "'; this network has " + known);
    }

    template <class Body>
    static void visit(const tensor_info& t, Body&& body) {
        for (index_t m = 0; m < t.spec.count; ++m) {
            for (index_t k = 0; k < t.spec.rows; ++k) {
                for (index_t n = 0; n < t.spec.logical_cols(); ++n) {
                    body(t.offset + element_offset<T>(t.spec, m, k, n));
                }
            }
        }
    }

    buffer<T> trained_, frozen_;
};

}  // namespace mox::inline MOX_ABI
