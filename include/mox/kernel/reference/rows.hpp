#pragma once

// The plain twins of softmax.hpp, norm.hpp, norm_backward.hpp, topk.hpp and column_norms.hpp: one row, or
// column, in loops.

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

/// The same as ascending indices.
template <class T>
void select_top(const T* values, index_t n, index_t k, row_t* selected) {
    top_k_row(values, n, k, selected);
    std::sort(selected, selected + k);
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

/// With n = (x - mean) rho and u = dy * gain: dx = rho (u - mean(u) - n mean(u n)); dgain += dy n and
/// dshift += dy.
template <class T>
void layer_norm_backward_row(const T* x, const T* gain, const T* dy, index_t size, T epsilon, T* dx, T* dgain,
                             T* dshift) {
    const T width = static_cast<T>(size);
    T mean = 0, variance = 0, u_mean = 0, un_mean = 0;
    for (index_t i = 0; i < size; ++i) mean += x[i] / width;
    for (index_t i = 0; i < size; ++i) variance += (x[i] - mean) * (x[i] - mean) / width;
    const T rho = 1 / std::sqrt(variance + epsilon);
    for (index_t i = 0; i < size; ++i) {
        u_mean += dy[i] * gain[i] / width;
        un_mean += dy[i] * gain[i] * (x[i] - mean) * rho / width;
    }
    for (index_t i = 0; i < size; ++i) {
        const T n = (x[i] - mean) * rho;
        dx[i] = rho * (dy[i] * gain[i] - u_mean - n * un_mean);
        dgain[i] += dy[i] * n;
        dshift[i] += dy[i];
    }
}

/// The same without mean and shift: n = x rho.
template <class T>
void rms_norm_backward_row(const T* x, const T* gain, const T* dy, index_t size, T epsilon, T* dx, T* dgain) {
    const T width = static_cast<T>(size);
    T square = 0, un_mean = 0;
    for (index_t i = 0; i < size; ++i) square += x[i] * x[i] / width;
    const T rho = 1 / std::sqrt(square + epsilon);
    for (index_t i = 0; i < size; ++i) un_mean += dy[i] * gain[i] * x[i] * rho / width;
    for (index_t i = 0; i < size; ++i) {
        dx[i] = rho * (dy[i] * gain[i] - x[i] * rho * un_mean);
        dgain[i] += dy[i] * x[i] * rho;
    }
}

/// The gradient of x from that of p = softmax(x): dx = p * (dp - sum(p dp)).
template <class T>
void softmax_backward_row(const T* p, const T* dp, index_t size, T* dx) {
    T mean = 0;
    for (index_t i = 0; i < size; ++i) mean += p[i] * dp[i];
    for (index_t i = 0; i < size; ++i) dx[i] = p[i] * (dp[i] - mean);
}

/// |w + a b|, a column of inputs w and its update: a is inputs x ranks, b has one value per rank.
template <class T>
T column_norm(const T* w, matrix_view<const T> a, const T* b) {
    T sum = 0;
    for (index_t i = 0; i < a.rows; ++i) {
        T v = w[i];
        for (index_t r = 0; r < a.cols; ++r) v += a(i, r) * b[r];
        sum += v * v;
    }
    return std::sqrt(sum);
}

}  // namespace mox::inline MOX_ABI::kernel::reference
