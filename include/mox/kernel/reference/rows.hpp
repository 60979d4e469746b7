#pragma once

// The plain twins of softmax.hpp, norm.hpp and topk.hpp: one row in loops.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include <mox/core/view.hpp>

namespace mox::inline MOX_ABI::kernel::reference {

/// out = softmax(x); returns log(sum(exp(x))).
template <class T>
T softmax_row(const T* x, index_t size, T* out) {
    T largest = -std::numeric_limits<T>::infinity();
    for (index_t i = 0; i < size; ++i) largest = std::max(largest, x[i]);
    T sum = 0;
    for (index_t i = 0; i < size; ++i) sum += out[i] = std::exp(x[i] - largest);
    for (index_t i = 0; i < size; ++i) out[i] /= sum;
    return largest + std::log(sum);
}

/// The k largest, best first: a stable sort by value, so that ties keep the order of their indices; NaN last.
template <class T>
void top_k_row(const T* values, index_t n, index_t k, row_t* chosen) {
    std::vector<row_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), row_t{0});
    std::stable_sort(order.begin(), order.end(), [&](row_t a, row_t b) {
        const bool a_nan = std::isnan(values[a]), b_nan = std::isnan(values[b]);
        return a_nan || b_nan ? !a_nan && b_nan : values[a] > values[b];
    });
    std::copy_n(order.begin(), k, chosen);
}

/// y = gain * x / sqrt(mean(x^2) + epsilon).
template <class T>
void rms_norm_row(const T* x, const T* gain, index_t size, T epsilon, T* y) {
    T sum = 0;
    for (index_t i = 0; i < size; ++i) sum += x[i] * x[i];
    const T rho = 1 / std::sqrt(sum / static_cast<T>(size) + epsilon);
    for (index_t i = 0; i < size; ++i) y[i] = gain[i] * x[i] * rho;
}

/// y = gain * (x - mean) / sqrt(var + epsilon) + shift.
template <class T>
void layer_norm_row(const T* x, const T* gain, const T* shift, index_t size, T epsilon, T* y) {
    T mean = 0, variance = 0;
    for (index_t i = 0; i < size; ++i) mean += x[i] / static_cast<T>(size);
    for (index_t i = 0; i < size; ++i) variance += (x[i] - mean) * (x[i] - mean) / static_cast<T>(size);
    for (index_t i = 0; i < size; ++i)
        y[i] = gain[i] * (x[i] - mean) / std::sqrt(variance + epsilon) + shift[i];
}

}  // namespace mox::inline MOX_ABI::kernel::reference
