#pragma once

// Checks a layer's backward against central differences, in double. Offered to users: whoever writes a layer
// needs it most.

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <mox/model/run.hpp>

namespace mox::inline MOX_ABI {

struct gradcheck_options {
    index_t tokens = 7;         ///< rows, when no batch is given
    double step = 1e-5;         ///< of the central differences
    double tolerance = 1e-6;    ///< on |analytic - numeric| / max(1, |analytic|, |numeric|)
    double input_scale = 1.0;   ///< inputs are normal numbers times this
    double weight_scale = 1.0;  ///< factor on the initial parameters
    std::uint64_t seed = 1;
    index_t samples = 64;                       ///< elements tried per tensor (all when it has fewer)
    std::vector<std::string> may_be_zero = {};  ///< tensors whose gradient is rightly zero everywhere
};

/// One tensor (or "input") of a gradcheck.
struct gradcheck_row {
    std::string path;
    index_t checked = 0;
    index_t skipped = 0;  ///< elements where the routing changed within the step: no derivative there
    double worst = 0;     ///< largest relative difference
    bool always_zero = true;
    bool unwritten = false;  ///< backward left an element as it was before
};

struct gradcheck_result {
    bool passed = true;
    std::vector<gradcheck_row> rows;
    std::string message;  ///< first failure, or "ok"

    double worst() const {
        double w = 0;
        for (const auto& r : rows) w = std::max(w, r.worst);
        return w;
    }
    index_t skipped() const {
        index_t n = 0;
        for (const auto& r : rows) n += r.skipped;
        return n;
    }
};

namespace detail {

inline constexpr std::uint64_t gradcheck_stream = 0x67726164;

// The routing of a step as numbers, to notice that a difference quotient crossed a decision.
inline std::vector<row_t> routing_fingerprint(std::span<const routing_record> records) {
    std::vector<row_t> f;
    for (const routing_record& r : records) {
        if (r.chosen) f.insert(f.end(), r.chosen, r.chosen + r.rows * r.slots);
        if (r.selected) f.insert(f.end(), r.selected, r.selected + r.selected_count);
        f.push_back(-2);
    }
    return f;
}

}  // namespace detail

namespace detail {

template <class Net>
gradcheck_result gradcheck_at(const gradcheck_options& options, const batch& sequences,
                              params<Net, double> weights, const random_stream& numbers,
                              std::uint64_t counter) {
    constexpr bool ids_in = detail::takes_ids<Net>();
    const index_t rows = sequences.rows();
    std::vector<row_t> ids;
    buffer<double> x(ids_in ? 0 : rows * Net::in);
    if constexpr (ids_in) {
        for (index_t i = 0; i < rows; ++i) {
            ids.push_back(static_cast<row_t>(numbers.bits(1'000'000 + static_cast<std::uint64_t>(i)) %
                                             static_cast<std::uint32_t>(Net::in)));
        }
    } else {
        for (index_t i = 0; i < x.size(); ++i) x[i] = options.input_scale * numbers.normal(counter++);
    }
    buffer<double> direction(rows * Net::out);
    for (index_t i = 0; i < direction.size(); ++i) direction[i] = numbers.normal(counter++);

    tape<Net, double> t;
    const auto input = [&] {
        if constexpr (ids_in) {
            return token_ids(ids);
        } else {
            return matrix_view<const double>(x.data(), rows, Net::in);
        }
    };
    std::vector<row_t> fingerprint;
    const auto loss = [&](bool& same_routing) {
        t.set_step(0);
        const auto y = forward<Net>(weights, input(), sequences, t);
        double sum = 0;
        for (index_t i = 0; i < rows; ++i) {
            for (index_t j = 0; j < Net::out; ++j) sum += y(i, j) * direction[i * Net::out + j];
        }
        same_routing = detail::routing_fingerprint(t.routing()) == fingerprint;
        return sum + t.aux_loss();
    };

    const double unwritten = std::numeric_limits<double>::quiet_NaN();
    params<Net, double> grads;
    for (const tensor_info& info : params<Net, double>::tensors()) {
        if (!info.spec.trained) continue;
        grads.write(info, std::vector<double>(static_cast<std::size_t>(info.spec.logical_size()), unwritten));
    }
    buffer<double> dx(ids_in ? 0 : rows * Net::in);
    for (index_t i = 0; i < dx.size(); ++i) dx[i] = unwritten;
    const auto run_backward = [&](bool accumulate) {
        t.set_step(0);
        const auto y = forward<Net>(weights, input(), sequences, t);
        fingerprint = detail::routing_fingerprint(t.routing());
        for (index_t i = 0; i < y.rows; ++i) {
            for (index_t j = 0; j < Net::out; ++j) t.output_grad()(i, j) = direction[i * Net::out + j];
        }
        if (accumulate) {
            backward_accumulate<Net>(weights, t, grads);
        } else if constexpr (ids_in) {
            backward<Net>(weights, t, grads);
        } else {
            backward<Net>(weights, t, grads, matrix_view<double>(dx.data(), rows, Net::in));
        }
    };
    run_backward(false);
    const params<Net, double> once = grads;
    run_backward(true);

    gradcheck_result result;
    const auto fail = [&](const std::string& what) {
        if (result.passed) result.message = what;
        result.passed = false;
    };
    const auto compare = [&](gradcheck_row& row, double& element, double analytic) {
        const double kept = element;
        bool same_up = true, same_down = true;
        element = kept + options.step;
        const double up = loss(same_up);
        element = kept - options.step;
        const double down = loss(same_down);
        element = kept;
        if (!same_up || !same_down) {
            ++row.skipped;
            return;
        }
        const double numeric = (up - down) / (2 * options.step);
        const double size = std::max({1.0, std::abs(analytic), std::abs(numeric)});
        const double difference = std::abs(analytic - numeric) / size;
        ++row.checked;
        if (std::isnan(analytic)) row.unwritten = true;
        row.worst = std::max(row.worst,
                             std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference);
    };
    const auto judge = [&](gradcheck_row row) {
        if (row.unwritten) {
            fail(row.path + ": backward leaves elements of this gradient unwritten");
        } else if (row.worst > options.tolerance) {
            fail(row.path + ": analytic and numeric gradients differ by " + std::to_string(row.worst));
        } else if (row.checked == 0 && row.skipped > 0) {
            fail(row.path + ": the routing changed in every difference quotient; use another seed");
        } else if (row.always_zero && rows > 0 &&
                   std::find(options.may_be_zero.begin(), options.may_be_zero.end(), row.path) ==
                       options.may_be_zero.end()) {
            fail(row.path + ": this gradient is zero everywhere; list it in may_be_zero when that is right");
        }
        result.rows.push_back(std::move(row));
    };

    for (const tensor_info& info : params<Net, double>::tensors()) {
        if (!info.spec.trained) continue;
        gradcheck_row row;
        row.path = info.path;
        const auto analytic = once.read(info);
        const auto doubled = grads.read(info);
        for (std::size_t i = 0; i < analytic.size(); ++i) {
            if (analytic[i] != 0) row.always_zero = false;
            if (std::isnan(analytic[i])) row.unwritten = true;
            if (std::abs(doubled[i] - 2 * analytic[i]) > 1e-9 * std::max(1.0, std::abs(analytic[i]))) {
                fail(row.path + ": accumulating the same gradient twice does not double it");
            }
        }
        const index_t cols = info.spec.logical_cols();
        const index_t size = info.spec.logical_size();
        const index_t step = std::max<index_t>(1, size / std::max<index_t>(1, options.samples));
        for (index_t i = 0; i < size; i += step) {
            const index_t m = i / (info.spec.rows * cols), k = i / cols % info.spec.rows, n = i % cols;
            double& element = weights.flat().data()[info.offset + element_offset<double>(info.spec, m, k, n)];
            compare(row, element, analytic[static_cast<std::size_t>(i)]);
        }
        judge(std::move(row));
    }
    if constexpr (!ids_in) {
        gradcheck_row row;
        row.path = "input";
        for (index_t i = 0; i < x.size(); ++i) {
            if (dx[i] != 0) row.always_zero = false;
            if (std::isnan(dx[i])) row.unwritten = true;
        }
        const index_t step = std::max<index_t>(1, x.size() / std::max<index_t>(1, options.samples));
        for (index_t i = 0; i < x.size(); i += step) compare(row, x[i], dx[i]);
        judge(std::move(row));
    }
    if (result.passed) result.message = "ok";
    return result;
}

}  // namespace detail

/// Compares all parameter gradients, and the input gradient of a network that reads a matrix, with central
/// differences of L = sum(output * R) + auxiliary losses, R random. Also fails when backward does not write
/// an element (gradients start as NaN), when running it twice with accumulation does not double it, and when
/// the gradient of a tensor is zero everywhere although it is not listed in may_be_zero.
template <class Net>
gradcheck_result gradcheck(const gradcheck_options& options, const batch& sequences) {
    params<Net, double> weights{init::standard, options.seed};
    // Zero-initialised tensors (biases) get small numbers too, else their paths are not tried.
    std::uint64_t counter = 0;
    const random_stream numbers(options.seed, detail::gradcheck_stream);
    for (const tensor_info& t : params<Net, double>::tensors()) {
        auto v = weights.read(t);
        for (double& x : v) {
            if (t.spec.init == fill::zeros || t.spec.init == fill::ones) x += 0.1 * numbers.normal(counter++);
            if (t.spec.init == fill::small || t.spec.init == fill::embedding)
                x = 0.5 * numbers.normal(counter++);
            x *= options.weight_scale;
        }
        weights.write(t, v);
    }

    return detail::gradcheck_at(options, sequences, std::move(weights), numbers, counter);
}

/// The same at given weights, for layers whose numbers must fit together.
template <class Net>
gradcheck_result gradcheck(const gradcheck_options& options, const batch& sequences,
                           const params<Net, double>& weights) {
    return detail::gradcheck_at(options, sequences, weights,
                                random_stream(options.seed, detail::gradcheck_stream), 0);
}

template <class Net>
gradcheck_result gradcheck(const gradcheck_options& options = {}) {
    return gradcheck<Net>(options, batch::equal(1, options.tokens));
}

}  // namespace mox::inline MOX_ABI
