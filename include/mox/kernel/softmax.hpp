#pragma once

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/elementwise.hpp>
#include <mox/kernel/streaming.hpp>
#include <mox/simd/batch.hpp>
#include <mox/simd/exp_weight.hpp>

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

namespace detail {

// exp(x - largest) by registers, x at most the largest. Float: relative error below 3e-7 plus 6e-8 |x -
// largest|.
template <class T, class Arch>
MOX_INLINE simd::batch<T, Arch> exp_below(const simd::batch<T, Arch>& x,
                                          const simd::batch<T, Arch>& largest) {
    return simd::weight((x - largest) * simd::batch<T, Arch>(simd::weight_unit<T>));
}

// The same for the last register of a row, zeros behind its end.
template <class T, class Arch>
simd::batch<T, Arch> exp_below_first(const T* x, index_t count, const simd::batch<T, Arch>& largest) {
    alignas(64) T padded[static_cast<std::size_t>(simd::lanes<T, Arch>)];
    std::fill(std::begin(padded), std::end(padded), -std::numeric_limits<T>::infinity());
    std::copy_n(x, count, padded);
    return exp_below<T, Arch>(simd::load<T, Arch>(padded), largest);
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
        const batch e = detail::exp_below<T, Arch>(simd::load<T, Arch>(x + i), shift);
        simd::store(out + i, e);
        sums = sums + e;
    }
    if (i < size) {
        const batch e = detail::exp_below_first<T, Arch>(x + i, size - i, shift);
        simd::store_first(out + i, e, size - i);
        sums = sums + e;
    }
    const T sum = simd::reduce_add(sums);
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
    for (; i + L <= size; i += L) {
        sums = sums + detail::exp_below<T, Arch>(simd::load<T, Arch>(x + i), batch(largest));
    }
    if (i < size) sums = sums + detail::exp_below_first<T, Arch>(x + i, size - i, batch(largest));
    const T sum = simd::reduce_add(sums);
    return largest + std::log(sum);
}

namespace detail {

// The widest row whose exponentials a streaming softmax keeps beside the row: together half of the first
// cache. Wider rows are written twice, which a streaming store must not be.
template <class T>
inline constexpr index_t widest_streamed = 8192 / static_cast<index_t>(sizeof(T));

// softmax_row with results past the caches: the same operations in the same order, the exponentials in memory
// of its own. Asks for the next row while it computes. Columns: whole registers, at most widest_streamed.
// Arithmetic bounds it: a row of 1024 takes 270 ns from the first cache, a copy of it in memory 220 ns.
template <class T, class Arch>
MOX_NOINLINE T softmax_row_streamed(const T* x, index_t size, T* out, const T* next) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    alignas(64) T weights[static_cast<std::size_t>(widest_streamed<T>)];
    const T largest = row_max<T, Arch>(x, size);
    const batch shift(largest);
    batch sums(T(0));
    for (index_t i = 0; i < size; i += L) {
        simd::prefetch(next + i);
        const batch e = exp_below<T, Arch>(simd::load<T, Arch>(x + i), shift);
        simd::store(weights + i, e);
        sums = sums + e;
    }
    const T sum = simd::reduce_add(sums);
    const batch scales(T(1) / sum);
    for (index_t i = 0; i < size; i += L) {
        simd::store_streaming(out + i, simd::load<T, Arch>(weights + i) * scales);
    }
    return largest + std::log(sum);
}

}  // namespace detail

/// Row softmax; `lse`, when not null, gets log(sum(exp)) of each row.
template <class T, class Arch = simd::default_arch>
void softmax_rows(executor_ref exec, std::type_identity_t<matrix_view<const T>> logits, matrix_view<T> out,
                  T* lse) {
    const bool past = streams<T, Arch>(out) && logits.data != out.data &&
                      out.cols <= detail::widest_streamed<T> && out.cols % simd::lanes<T, Arch> == 0;
    parallel_ranges(exec, logits.rows, rows_per_unit, [&](index_t begin, index_t end) {
        detail::with_stores(past, [&](auto stream) {
            for (index_t t = begin; t < end; ++t) {
                T l;
                if constexpr (decltype(stream)::value) {
                    l = detail::softmax_row_streamed<T, Arch>(logits.row(t), logits.cols, out.row(t),
                                                              logits.row(t + 1));
                } else {
                    l = softmax_row<T, Arch>(logits.row(t), logits.cols, out.row(t));
                }
                if (lse) lse[t] = l;
            }
        });
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
