#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/elementwise.hpp>
#include <mox/kernel/four_sums.hpp>
#include <mox/kernel/streaming.hpp>
#include <mox/simd/batch.hpp>
#include <mox/simd/exp_weight.hpp>

namespace mox::inline MOX_ABI::kernel {

namespace detail {

template <class T, class Arch>
MOX_INLINE T row_max(const T* x, index_t size) {
    constexpr index_t L = simd::lanes<T, Arch>;
    using batch = simd::batch<T, Arch>;
    constexpr T lowest = -std::numeric_limits<T>::infinity();
    batch part[4] = {batch(lowest), batch(lowest), batch(lowest), batch(lowest)};
    for_each_of_four<T, Arch>(size, [&](int k, index_t i, index_t n) {
        part[k] = simd::max(part[k], n == L ? simd::load<T, Arch>(x + i)
                                            : simd::load_first<T, Arch>(x + i, n, lowest));
    });
    return simd::reduce_max(simd::max(simd::max(part[0], part[1]), simd::max(part[2], part[3])));
}

// exp(x - largest) of `count` values, x at most the largest, zeros behind them. Float: relative error below
// 3e-7 plus 6e-8 |x - largest|.
template <class T, class Arch>
MOX_INLINE simd::batch<T, Arch> exp_below(const T* x, index_t count, const simd::batch<T, Arch>& largest) {
    constexpr index_t L = simd::lanes<T, Arch>;
    const auto v = count == L ? simd::load<T, Arch>(x)
                              : simd::load_first<T, Arch>(x, count, -std::numeric_limits<T>::infinity());
    return simd::weight(v - largest, simd::weight_unit<T>);
}

}  // namespace detail

/// out = softmax(x), the row maximum subtracted; returns log(sum(exp(x))). x and out may be the same. NaN
/// passes through; a row of -infinity gives NaN.
template <class T, class Arch = simd::default_arch>
T softmax_row(const T* x, index_t size, T* out) {
    using batch = simd::batch<T, Arch>;
    const T largest = detail::row_max<T, Arch>(x, size);
    detail::four_sums<T, Arch> sums;
    detail::for_each_of_four<T, Arch>(size, [&, shift = batch(largest)](int k, index_t i, index_t n) {
        const batch e = detail::exp_below<T, Arch>(x + i, n, shift);
        simd::store_upto(out + i, e, n);
        sums.part[k] = sums.part[k] + e;
    });
    const T sum = sums.total();
    simd::for_each<T, Arch>(size, [&, scale = batch(T(1) / sum)](index_t i, index_t n) {
        simd::store_upto(out + i, simd::load_upto<T, Arch>(out + i, n) * scale, n);
    });
    return largest + std::log(sum);
}

/// log(sum(exp(x))).
template <class T, class Arch = simd::default_arch>
T log_sum_exp_row(const T* x, index_t size) {
    using batch = simd::batch<T, Arch>;
    const T largest = detail::row_max<T, Arch>(x, size);
    detail::four_sums<T, Arch> sums;
    detail::for_each_of_four<T, Arch>(size, [&, shift = batch(largest)](int k, index_t i, index_t n) {
        sums.part[k] = sums.part[k] + detail::exp_below<T, Arch>(x + i, n, shift);
    });
    return largest + std::log(sums.total());
}

namespace detail {

// The widest row whose exponentials a streaming softmax keeps beside the row: together half of the first
// cache. Wider rows are written twice, which a streaming store must not be.
template <class T>
inline constexpr index_t widest_streamed = 8192 / static_cast<index_t>(sizeof(T));

// Exponentials of two rows. A core takes a load for one of an earlier store when their addresses end in the
// same 12 bits, and waits or starts again: so these lie 1 and 3 KB further than the row they are made of,
// counted modulo 4 KB, 2 KB from each other. (Measured, rows of 1024 f32, share of a copy in 60 processes:
// 0.61 and more; with both at the same place 0.24 in four of them; both 64 bytes behind the row 0.5 to 0.7.)
template <class T>
class exponential_rows {
public:
    T* beside(index_t t, const T* row) noexcept {
        const std::size_t at = reinterpret_cast<std::uintptr_t>(row) / line * line;
        return memory_[t & 1] + (at + (t & 1 ? 3072 : 1024)) % page / sizeof(T);
    }

private:
    static constexpr std::size_t page = 4096, line = 64;
    alignas(page) T memory_[2][static_cast<std::size_t>(widest_streamed<T>) + page / sizeof(T)];
};

// softmax_row of rows [begin, end) with results past the caches: the same operations in the same order, each
// row written while the next one is exponentiated, so that memory writes while the core computes. Columns:
// whole registers, at most widest_streamed.
template <class T, class Arch>
MOX_NOINLINE void softmax_rows_streamed(matrix_view<const T> logits, matrix_view<T> out, T* lse,
                                        index_t begin, index_t end) {
    using batch = simd::batch<T, Arch>;
    const index_t size = out.cols;
    exponential_rows<T> rows;
    const T* done = nullptr;  // exponentials of the row before, and what scales them
    batch scale(T(0));
    for (index_t t = begin; t < end; ++t) {
        const T* x = logits.row(t);
        const T* next = logits.row(t + 1);
        T* weights = rows.beside(t, x);
        T* to = done ? out.row(t - 1) : nullptr;
        const T largest = row_max<T, Arch>(x, size);
        four_sums<T, Arch> sums;
        for_each_of_four<T, Arch>(size, [&, shift = batch(largest)](int k, index_t i, index_t n) {
            simd::prefetch_near(next + i);
            const batch e = exp_below<T, Arch>(x + i, n, shift);
            simd::store(weights + i, e);
            sums.part[k] = sums.part[k] + e;
            if (done) simd::store_streaming(to + i, simd::load<T, Arch>(done + i) * scale);
        });
        const T sum = sums.total();
        if (lse) lse[t] = largest + std::log(sum);
        done = weights;
        scale = batch(T(1) / sum);
    }
    if (!done) return;
    simd::for_each<T, Arch>(size, [&, to = out.row(end - 1)](index_t i, index_t) {
        simd::store_streaming(to + i, simd::load<T, Arch>(done + i) * scale);
    });
}

// dl (+)= p * (dp - sum_j p_j dp_j) of rows [begin, end).
template <class T, class Arch, bool Stream, bool Accumulate>
MOX_NOINLINE void softmax_backward_range(matrix_view<const T> p, matrix_view<const T> dp, matrix_view<T> dl,
                                         index_t begin, index_t end) {
    using batch = simd::batch<T, Arch>;
    for (index_t t = begin; t < end; ++t) {
        const T* pt = p.row(t);
        const T* dt = dp.row(t);
        const T* next_p = p.row(t + 1);
        const T* next_d = dp.row(t + 1);
        T* to = dl.row(t);
        four_sums<T, Arch> products;
        for_each_of_four<T, Arch>(p.cols, [&](int k, index_t i, index_t n) {
            products.part[k] = simd::fma(simd::load_upto<T, Arch>(pt + i, n),
                                         simd::load_upto<T, Arch>(dt + i, n), products.part[k]);
        });
        simd::for_each<T, Arch>(p.cols, [&, mean = batch(products.total())](index_t i, index_t n) {
            ask_for_next<Stream>(next_p + i);
            ask_for_next<Stream>(next_d + i);
            const batch d =
                simd::load_upto<T, Arch>(pt + i, n) * (simd::load_upto<T, Arch>(dt + i, n) - mean);
            put<Stream>(to + i, Accumulate ? simd::load_upto<T, Arch>(to + i, n) + d : d, n);
        });
    }
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
            if constexpr (decltype(stream)::value) {
                detail::softmax_rows_streamed<T, Arch>(logits, out, lse, begin, end);
            } else {
                for (index_t t = begin; t < end; ++t) {
                    const T l = softmax_row<T, Arch>(logits.row(t), logits.cols, out.row(t));
                    if (lse) lse[t] = l;
                }
            }
        });
    });
}

/// dl (+)= p * (dp - sum_j p_j dp_j), row by row. dl may be p or dp.
template <class T, class Arch = simd::default_arch>
void softmax_backward_rows(executor_ref exec, std::type_identity_t<matrix_view<const T>> p,
                           std::type_identity_t<matrix_view<const T>> dp, matrix_view<T> dl,
                           bool accumulate) {
    // What is added to was read, and lies in a cache.
    const bool past = !accumulate && streams<T, Arch>(dl) && dl.data != p.data && dl.data != dp.data;
    parallel_ranges(exec, p.rows, rows_per_unit, [&](index_t begin, index_t end) {
        if (accumulate) return detail::softmax_backward_range<T, Arch, false, true>(p, dp, dl, begin, end);
        detail::with_stores(past, [&](auto stream) {
            detail::softmax_backward_range<T, Arch, decltype(stream)::value, false>(p, dp, dl, begin, end);
        });
    });
}

}  // namespace mox::inline MOX_ABI::kernel
