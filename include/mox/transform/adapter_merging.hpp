#pragma once

// Several adapters of one map become one. Averaging A and B by themselves is not the average of the products
// A' B; what follows is exact, or says what it gives up.

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <vector>

#include <mox/core/error.hpp>
#include <mox/transform/compeft.hpp>

namespace mox::inline MOX_ABI {

/// The factors of an update weight * A' B, row-major: a is rank x in, b is rank x out.
template <class T>
struct adapter_factors {
    std::span<const T> a, b;
    double weight = 1;  ///< its scale (alpha / rank), times how much of it is wanted
};

/// One update of the summed rank.
template <class T>
struct summed_adapter {
    std::vector<T> a, b;
    index_t rank = 0;
};

/// sum_k weight_k A_k' B_k as one adapter, exactly: the factors one under the other, B_k times its weight
/// over `scale`, which is the scale of the adapter they are for. An adapter that did not start at zero
/// (CorDA, arXiv 2406.05223) becomes a plain one with what it learned: its factors with weight s and those of
/// its start with -s.
template <class T>
summed_adapter<T> sum_adapters(std::type_identity_t<std::span<const adapter_factors<T>>> adapters, index_t in,
                               index_t out, double scale = 1) {
    constexpr std::string_view call = "mox::sum_adapters";
    check::that(in > 0 && out > 0, call, "arguments 'in' and 'out' must be positive");
    check::that(std::isfinite(scale) && scale != 0, call,
                "argument 'scale' must be a number other than zero");
    summed_adapter<T> sum;
    for (const adapter_factors<T>& f : adapters) {
        const index_t rank = ssize_of(f.a) / in;
        check::that(ssize_of(f.a) == rank * in && ssize_of(f.b) == rank * out, call,
                    "argument 'adapters' must hold factors of rank x in and rank x out elements");
        sum.rank += rank;
        sum.a.insert(sum.a.end(), f.a.begin(), f.a.end());
        for (const T v : f.b) sum.b.push_back(static_cast<T>(f.weight / scale * static_cast<double>(v)));
    }
    return sum;
}

/// The mean of vectors of one size. Of the factors B of tasks that share one frozen A (FlyLoRA, arXiv
/// 2510.08396, with one seed) it is the mean of their updates. Tasks with projections of their own need
/// sum_adapters with weights of 1 / tasks.
template <class T>
std::vector<T> mean_factor(std::span<const std::span<const T>> factors) {
    check::that(!factors.empty(), "mox::mean_factor", "argument 'factors' must hold at least one");
    std::vector<double> sum(factors[0].size());
    for (const std::span<const T> f : factors) {
        check::size("mox::mean_factor", "factors", "elements each, like the first", ssize_of(factors[0]),
                    ssize_of(f));
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(f[i]);
    }
    std::vector<T> mean;
    for (const double s : sum) mean.push_back(static_cast<T>(s / static_cast<double>(factors.size())));
    return mean;
}

/// Compressed updates into one (TIES, arXiv 2306.01708): every entry takes the sign that has the larger sum
/// of sizes, and the mean of those that have this sign; equal sums give 0.
inline std::vector<double> merge_by_sign(std::span<const ternary> updates) {
    check::that(!updates.empty(), "mox::merge_by_sign", "argument 'updates' must hold at least one");
    const index_t n = updates[0].size();
    for (const ternary& u : updates)
        check::size("mox::merge_by_sign", "updates", "elements each", n, u.size());
    std::vector<double> merged(static_cast<std::size_t>(n));
    for (index_t i = 0; i < n; ++i) {
        std::array<double, 2> mass{};
        std::array<index_t, 2> count{};
        for (const ternary& u : updates) {
            const double v = u.scale() * u.sign(i);
            if (v == 0) continue;
            const std::size_t side = v > 0 ? 1 : 0;
            mass[side] += v;
            ++count[side];
        }
        const std::size_t side = mass[1] > -mass[0] ? 1 : 0;
        if (mass[0] + mass[1] != 0)
            merged[static_cast<std::size_t>(i)] = mass[side] / static_cast<double>(count[side]);
    }
    return merged;
}

}  // namespace mox::inline MOX_ABI
