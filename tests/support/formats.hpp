#pragma once

// What tests of weight formats share: all formats, rows that are hard on them, the bounds they promise.

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <mox/kernel/weight_format.hpp>

#include "layers.hpp"

namespace mox_test {

namespace weight = mox::weight;

/// body(format{}) for every kind of format.
template <class Body>
void for_each_format(Body&& body) {
    body(weight::bf16{});
    body(weight::int8<>{});
    body(weight::int4<>{});
    body(weight::int4<32, weight::zero::moving>{});
    body(weight::int4<6>{});
    body(weight::int4<20, weight::zero::moving>{});
}

/// Columns (or rows) of `k` values: random, one huge outlier, denormals, zeros, one sign only, one value.
inline std::vector<std::vector<double>> hard_vectors(index_t k, std::uint64_t seed) {
    std::vector<std::vector<double>> all;
    all.push_back(normal_numbers<double>(k, seed));
    all.push_back(normal_numbers<double>(k, seed + 1));
    all.back()[static_cast<std::size_t>(k / 2)] = 3e30;
    all.push_back(normal_numbers<double>(k, seed + 2, 1e-41));
    all.push_back(std::vector<double>(static_cast<std::size_t>(k), 0.0));
    all.push_back(normal_numbers<double>(k, seed + 3));
    for (double& v : all.back()) v = -std::abs(v);
    all.push_back(std::vector<double>(static_cast<std::size_t>(k), -0.7));
    all.push_back(normal_numbers<double>(k, seed + 4, 1e-20));
    // Weights are floats.
    for (auto& v : all) {
        for (double& w : v) w = static_cast<float>(w);
    }
    return all;
}

inline double largest_of(const std::vector<double>& v, index_t begin, index_t end) {
    double m = 0;
    for (index_t i = begin; i < end; ++i) m = std::max(m, std::abs(v[static_cast<std::size_t>(i)]));
    return m;
}

// Scales are rounded to float: 2^-24 of the value, or half the smallest float.
inline constexpr double of_scale = 1.2e-7;
inline constexpr double smallest = 1.5e-45;

/// The largest error that a format promises for value i of a column.
template <class F>
double weight_bound(const std::vector<double>& w, index_t i) {
    const auto k = static_cast<index_t>(w.size());
    const double v = std::abs(w[static_cast<std::size_t>(i)]);
    if constexpr (std::is_same_v<F, weight::bf16>) {
        return std::ldexp(v, -8) + std::ldexp(1.0, -134);
    } else if constexpr (requires { F::padded_group; }) {
        const index_t begin = i / F::group * F::group, end = std::min(k, begin + F::group);
        double low = 0, high = 0;
        for (index_t j = begin; j < end; ++j) {
            low = std::min(low, w[static_cast<std::size_t>(j)]);
            high = std::max(high, w[static_cast<std::size_t>(j)]);
        }
        const double s = F::moving ? (high - low) / 15 : std::max(high, -low) / 7;
        return s * (0.5 + 1e-9) + 15 * (s * of_scale + smallest);
    } else {
        const double s = largest_of(w, 0, k) / 127;
        return s * (0.5 + 1e-9) + 127 * (s * of_scale + smallest);
    }
}

/// The largest error of value i of a rounded row.
template <class F>
double row_bound(const std::vector<double>& x, index_t i) {
    if constexpr (std::is_same_v<F, weight::bf16>) {
        return weight_bound<F>(x, i);
    } else {
        const double s = std::max(largest_of(x, 0, static_cast<index_t>(x.size())), 1e-5) / 127;
        // A quotient next to the middle of two codes may fall to either side in float.
        return s * (0.5 + 127 * 3 * of_scale);
    }
}

}  // namespace mox_test
