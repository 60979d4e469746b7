#pragma once

#include <cmath>
#include <limits>

#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/elementwise.hpp>
#include <mox/simd/batch.hpp>

namespace mox::inline MOX_ABI::kernel {

namespace detail {

template <class T, class Arch>
T row_max(const T* x, index_t size) {
    constexpr index_t L = simd::lanes<T, Arch>;
    T best = -std::numeric_limits<T>::infinity();
    index_t i = 0;
    if (size >= L) {
        auto v = simd::load<T, Arch>(x);
        for (i = L; i + L <= size; i += L) v = simd::max(v, simd::load<T, Arch>(x + i));
        best = simd::reduce_max(v);
    }
    for (; i < size; ++i) best = x[i] > best ? x[i] : best;
    return best;
}

}  // namespace detail

/// out = softmax(x), the row maximum subtracted; returns log(sum(exp(x))). x and out may be the same. NaN
/// passes through; a row of -infinity gives NaN.
template <class T, class Arch = simd::default_arch>
T softmax_row(const T* x, index_t size, T* out) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    const T largest = detail::row_max<T, Arch>(x, size);
    const batch shift(largest);
    batch sums(T(0));
    index_t i = 0;
    for (; i + L <= size; i += L) {
        const batch e = simd::exp(simd::load<T, Arch>(x + i) - shift);
        simd::store(out + i, e);
        sums = sums + e;
    }
    T sum = simd::reduce_add(sums);
    for (; i < size; ++i) {
        out[i] = std::exp(x[i] - largest);
        sum += out[i];
    }
    const T scale = T(1) / sum;
    const batch scales(scale);
    for (i = 0; i + L <= size; i += L) simd::store(out + i, simd::load<T, Arch>(out + i) * scales);
    for (; i < size; ++i) out[i] *= scale;
    return largest + std::log(sum);
}

/// log(sum(exp(x))).
template <class T, class Arch = simd::default_arch>
T log_sum_exp_row(const T* x, index_t size) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    const T largest = detail::row_max<T, Arch>(x, size);
    batch sums(T(0));
    index_t i = 0;
    for (; i + L <= size; i += L) sums = sums + simd::exp(simd::load<T, Arch>(x + i) - batch(largest));
    T sum = simd::reduce_add(sums);
    for (; i < size; ++i) sum += std::exp(x[i] - largest);
    return largest + std::log(sum);
}

/// Row softmax; `lse`, when not null, gets log(sum(exp)) of each row.
template <class T, class Arch = simd::default_arch>
void softmax_rows(executor_ref exec, std::type_identity_t<matrix_view<const T>> logits, matrix_view<T> out,
                  T* lse) {
    parallel_ranges(exec, logits.rows, rows_per_unit, [&](index_t begin, index_t end) {
        for (index_t t = begin; t < end; ++t) {
            const T l = softmax_row<T, Arch>(logits.row(t), logits.cols, out.row(t));
            if (lse) lse[t] = l;
        }
    });
}

/// dl (+)= p * (dp - sum_j p_j dp_j), row by row.
template <class T>
void softmax_backward_rows(executor_ref exec, std::type_identity_t<matrix_view<const T>> p,
                           std::type_identity_t<matrix_view<const T>> dp, matrix_view<T> dl,
                           bool accumulate) {
    parallel_ranges(exec, p.rows, rows_per_unit, [&](index_t begin, index_t end) {
        for (index_t t = begin; t < end; ++t) {
            const T* pt = p.row(t);
            const T* dt = dp.row(t);
            T* to = dl.row(t);
            T mean = 0;
            for (index_t j = 0; j < p.cols; ++j) mean += pt[j] * dt[j];
            for (index_t j = 0; j < p.cols; ++j) {
                const T d = pt[j] * (dt[j] - mean);
                to[j] = accumulate ? to[j] + d : d;
            }
        }
    });
}

}  // namespace mox::inline MOX_ABI::kernel
