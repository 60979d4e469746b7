#pragma once

// ComPEFT (arXiv 2311.13171): an update of weights, such as all factors of an adapter, as signs of its
// largest entries and one number. Two bits an entry instead of 32.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include <mox/model/params.hpp>

namespace mox::inline MOX_ABI {

enum class ternary_magnitude {
    deviation,  ///< factor times the standard deviation of the whole update (the paper's)
    mean_kept,  ///< factor times the mean size of the kept entries
};

struct compeft_options {
    double density = 0.2;  ///< share of entries that are kept, above 0; 1 keeps all
    double factor = 1;     ///< alpha of the paper; tuned on validation data
    ternary_magnitude magnitude = ternary_magnitude::deviation;
};

/// A vector of -1, 0 and 1, times one scale.
class ternary {
public:
    ternary() = default;
    ternary(index_t size, double scale) : size_(size), scale_(scale) {
        positive_.resize(static_cast<std::size_t>(divide_up(size, 64)));
        negative_.resize(positive_.size());
    }

    index_t size() const noexcept { return size_; }
    double scale() const noexcept { return scale_; }
    /// -1, 0 or 1.
    int sign(index_t i) const noexcept {
        const auto word = static_cast<std::size_t>(i / 64);
        return static_cast<int>(positive_[word] >> (i % 64) & 1) -
               static_cast<int>(negative_[word] >> (i % 64) & 1);
    }
    void set(index_t i, int sign) noexcept {
        const auto word = static_cast<std::size_t>(i / 64);
        const std::uint64_t bit = std::uint64_t{1} << (i % 64);
        positive_[word] = sign > 0 ? positive_[word] | bit : positive_[word] & ~bit;
        negative_[word] = sign < 0 ? negative_[word] | bit : negative_[word] & ~bit;
    }
    index_t count() const noexcept {
        index_t n = 0;
        for (std::size_t w = 0; w < positive_.size(); ++w)
            n += std::popcount(positive_[w]) + std::popcount(negative_[w]);
        return n;
    }
    /// Of the masks and the scale.
    std::size_t bytes() const noexcept {
        return 2 * positive_.size() * sizeof(std::uint64_t) + sizeof(scale_);
    }

    template <class T>
    void write(std::span<T> to) const {
        check::size("mox::ternary::write", "to", "elements", size_, ssize_of(to));
        for (index_t i = 0; i < size_; ++i)
            to[static_cast<std::size_t>(i)] = static_cast<T>(scale_ * sign(i));
    }

    /// The dot product of two, without a multiplication per entry: how alike two updates are.
    friend double dot(const ternary& a, const ternary& b) {
        check::size("mox::dot", "b", "elements, like a", a.size_, b.size_);
        index_t sum = 0;
        for (std::size_t w = 0; w < a.positive_.size(); ++w) {
            sum += std::popcount((a.positive_[w] & b.positive_[w]) | (a.negative_[w] & b.negative_[w]));
            sum -= std::popcount((a.positive_[w] & b.negative_[w]) | (a.negative_[w] & b.positive_[w]));
        }
        return a.scale_ * b.scale_ * static_cast<double>(sum);
    }

    /// The same with numbers: those under a plus less those under a minus, times the scale.
    template <class T>
    double dot(std::span<const T> x) const {
        check::size("mox::ternary::dot", "x", "elements", size_, ssize_of(x));
        double sum = 0;
        for (std::size_t w = 0; w < positive_.size(); ++w) {
            for (std::uint64_t rest = positive_[w]; rest != 0; rest &= rest - 1)
                sum += static_cast<double>(x[64 * w + static_cast<std::size_t>(std::countr_zero(rest))]);
            for (std::uint64_t rest = negative_[w]; rest != 0; rest &= rest - 1)
                sum -= static_cast<double>(x[64 * w + static_cast<std::size_t>(std::countr_zero(rest))]);
        }
        return scale_ * sum;
    }

private:
    index_t size_ = 0;
    double scale_ = 0;
    std::vector<std::uint64_t> positive_, negative_;
};

namespace detail {

// The size that an entry must have to be kept: floor(n density) + 1 of n different ones have it.
inline double pruning_threshold(std::vector<double> sizes, double density) {
    if (density >= 1 || sizes.empty()) return 0;
    const auto n = static_cast<index_t>(sizes.size());
    const auto kept = static_cast<index_t>(std::floor(static_cast<double>(n) * density));
    const auto at = sizes.begin() + (n - kept - 1);
    std::nth_element(sizes.begin(), at, sizes.end());
    return *at;
}

}  // namespace detail

/// Sets all but the largest entries to zero and leaves those as they are: the first half of compress, with
/// the same entries.
template <class T>
void prune(std::span<T> update, double density) {
    check::that(density > 0 && density <= 1, "mox::prune",
                "argument 'density' must lie in (0, 1], the share of entries that are kept");
    std::vector<double> size;
    size.reserve(update.size());
    for (const T v : update) {
        size.push_back(std::abs(static_cast<double>(v)));
        check::that(std::isfinite(size.back()), "mox::prune", "argument 'update' must hold finite numbers");
    }
    const double threshold = detail::pruning_threshold(size, density);
    for (std::size_t i = 0; i < size.size(); ++i) {
        if (size[i] < threshold) update[i] = T(0);
    }
}

/// Bits that `size` signs of this density take at least, and a scale of 16 bits: n (-(1-k) log2(1-k) - k
/// log2(k/2)) + 16. transform/ternary_code.hpp comes close to it.
inline double ternary_bound(index_t size, double density) {
    check::that(size >= 0 && density >= 0 && density <= 1, "mox::ternary_bound",
                "argument 'size' must not be negative and 'density' must lie in [0, 1]");
    const auto term = [](double share, double of) { return share > 0 ? -share * std::log2(of) : 0.0; };
    return static_cast<double>(size) * (term(1 - density, 1 - density) + term(density, density / 2)) + 16;
}

/// The signs of the entries whose size is at least that of the (n - floor(n density))-th smallest: floor(n
/// density) + 1 of n different ones, more on ties. Entries that are not finite are refused.
template <class T>
ternary compress(std::span<const T> update, const compeft_options& options = {}) {
    check::that(options.density > 0 && options.density <= 1, "mox::compress",
                "option 'density' must lie in (0, 1], the share of entries that are kept");
    check::that(std::isfinite(options.factor), "mox::compress", "option 'factor' must be a finite number");
    const index_t n = ssize_of(update);
    if (n == 0) return {};
    std::vector<double> size;
    size.reserve(update.size());
    double mean = 0;
    for (const T v : update) {
        size.push_back(std::abs(static_cast<double>(v)));
        mean += static_cast<double>(v);
    }
    check::that(std::isfinite(mean), "mox::compress", "argument 'update' must hold finite numbers");
    mean /= static_cast<double>(n);
    double variance = 0;
    for (const T v : update) variance += (static_cast<double>(v) - mean) * (static_cast<double>(v) - mean);
    variance = n > 1 ? variance / static_cast<double>(n - 1) : 0;

    const double threshold = detail::pruning_threshold(size, options.density);
    double kept_sum = 0, kept_count = 0;
    for (const double s : size) {
        if (s < threshold || s == 0) continue;
        kept_sum += s;
        ++kept_count;
    }
    const double unit = options.magnitude == ternary_magnitude::deviation ? std::sqrt(variance)
                        : kept_count > 0                                  ? kept_sum / kept_count
                                                                          : 0;
    ternary t(n, options.factor * unit);
    for (index_t i = 0; i < n; ++i) {
        const auto at = static_cast<std::size_t>(i);
        if (size[at] >= threshold) t.set(i, update[at] > T(0) ? 1 : update[at] < T(0) ? -1 : 0);
    }
    return t;
}

/// Everything that is trained, in the order of the network: for one with adapters, the adapters.
template <class Net, class T>
ternary compress(const params<Net, T>& weights, const compeft_options& options = {}) {
    std::vector<T> all;
    for (const tensor_info& info : params<Net, T>::tensors()) {
        if (!info.spec.trained) continue;
        const auto v = weights.read(info);
        all.insert(all.end(), v.begin(), v.end());
    }
    return compress(std::span<const T>(all), options);
}

/// Puts a compressed update in the place of everything that is trained. Throws mox::error when the sizes
/// differ; `weights` is then unchanged.
template <class Net, class T>
void decompress(const ternary& update, params<Net, T>& weights) {
    check::size("mox::decompress", "update", "elements, like what the network trains",
                params<Net, T>::trained_count(), update.size());
    std::vector<T> all(static_cast<std::size_t>(update.size()));
    update.write(std::span<T>(all));
    const T* from = all.data();
    for (const tensor_info& info : params<Net, T>::tensors()) {
        if (!info.spec.trained) continue;
        const auto size = static_cast<std::size_t>(info.spec.logical_size());
        weights.write(info, std::span<const T>(from, size));
        from += size;
    }
}

}  // namespace mox::inline MOX_ABI
