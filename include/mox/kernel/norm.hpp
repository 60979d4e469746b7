#pragma once

// RMSNorm (arXiv 1910.07467) and LayerNorm (arXiv 1607.06450): one pass over memory each, also when the rows
// are the sum of two others. Gradients: norm_backward.hpp.

#include <cmath>

#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/elementwise.hpp>
#include <mox/kernel/streaming.hpp>

namespace mox::inline MOX_ABI::kernel {

namespace detail {

// The rows to be normed, as they are. take() is the first touch of a value; later it lies in `row`. first()
// comes before it.
template <class T, class Arch>
struct given_rows {
    struct cursor {
        const T* row;
        MOX_INLINE T first() const { return row[0]; }
        MOX_INLINE simd::batch<T, Arch> take(index_t i, index_t n) const {
            return simd::load_upto<T, Arch>(row + i, n);
        }
        template <bool Stream>
        MOX_INLINE void ask(index_t i) const {
            ask_for_next<Stream>(row + i);
        }
    };
    matrix_view<const T> x;
    MOX_INLINE cursor at(index_t t) const { return {x.row(t)}; }
};

// sum + x, left in sum with ordinary stores: its lines were just read.
template <class T, class Arch>
struct added_rows {
    struct cursor {
        T* row;
        const T* from;
        MOX_INLINE T first() const { return row[0] + from[0]; }
        MOX_INLINE simd::batch<T, Arch> take(index_t i, index_t n) const {
            const auto v = simd::load_upto<T, Arch>(row + i, n) + simd::load_upto<T, Arch>(from + i, n);
            simd::store_upto(row + i, v, n);
            return v;
        }
        template <bool Stream>
        MOX_INLINE void ask(index_t i) const {
            ask_for_next<Stream>(row + i);
            ask_for_next<Stream>(from + i);
        }
    };
    matrix_view<const T> x;
    matrix_view<T> sum;
    MOX_INLINE cursor at(index_t t) const { return {sum.row(t), x.row(t)}; }
};

template <class T, class Arch, bool Stream, class Rows>
MOX_NOINLINE void rms_norm_rows(Rows rows, index_t begin, index_t end, const T* gain, T epsilon,
                                matrix_view<T> y, T* rho) {
    using batch = simd::batch<T, Arch>;
    const index_t size = y.cols;
    for (index_t t = begin; t < end; ++t) {
        const auto x = rows.at(t), next = rows.at(t + 1);
        four_sums<T, Arch> squares;
        for_each_of_four<T, Arch>(size, [&](int k, index_t i, index_t n) {
            const batch v = x.take(i, n);
            squares.part[k] = simd::fma(v, v, squares.part[k]);
        });
        rho[t] = T(1) / std::sqrt(squares.total() / static_cast<T>(size) + epsilon);
        T* to = y.row(t);
        simd::for_each<T, Arch>(size, [&, r = batch(rho[t])](index_t i, index_t n) {
            next.template ask<Stream>(i);
            put<Stream>(to + i,
                        simd::load_upto<T, Arch>(gain + i, n) * (simd::load_upto<T, Arch>(x.row + i, n) * r),
                        n);
        });
    }
}

// The variance of a row whose mean is known to a few digits of its spread; corrects the mean.
template <class T, class Arch>
MOX_NOINLINE T variance_about(const T* x, index_t size, T& mean) {
    const T width = static_cast<T>(size);
    four_sums<T, Arch> sum, squares;
    for_each_of_four<T, Arch>(size, [&](int k, index_t i, index_t n) {
        const auto d = simd::load_upto<T, Arch>(x + i, n) - first_lanes<T, Arch>(mean, n);
        sum.part[k] = sum.part[k] + d;
        squares.part[k] = simd::fma(d, d, squares.part[k]);
    });
    const T away = sum.total() / width;
    mean += away;
    return squares.total() / width - away * away;
}

template <class T, class Arch, bool Stream, class Rows>
MOX_NOINLINE void layer_norm_rows(Rows rows, index_t begin, index_t end, const T* gain, const T* shift,
                                  T epsilon, matrix_view<T> y, T* statistics) {
    using batch = simd::batch<T, Arch>;
    const index_t size = y.cols;
    const T width = static_cast<T>(size);
    for (index_t t = begin; t < end; ++t) {
        const auto x = rows.at(t), next = rows.at(t + 1);
        // Both sums in one pass, of differences from a value of the row.
        const T origin = size > 0 ? x.first() : T(0);
        four_sums<T, Arch> sum, squares;
        for_each_of_four<T, Arch>(size, [&](int k, index_t i, index_t n) {
            const batch d = x.take(i, n) - first_lanes<T, Arch>(origin, n);
            sum.part[k] = sum.part[k] + d;
            squares.part[k] = simd::fma(d, d, squares.part[k]);
        });
        const T away = sum.total() / width;
        T mean = origin + away, variance = squares.total() / width - away * away;
        // The difference lost digits, four bits at most up to here: a pass of its own, in cache.
        if (variance < away * away * T(0.0625)) variance = variance_about<T, Arch>(x.row, size, mean);
        const T rho = T(1) / std::sqrt(variance + epsilon);
        statistics[2 * t] = mean;
        statistics[2 * t + 1] = rho;
        T* to = y.row(t);
        simd::for_each<T, Arch>(size, [&, m = batch(mean), r = batch(rho)](index_t i, index_t n) {
            next.template ask<Stream>(i);
            const batch d = (simd::load_upto<T, Arch>(x.row + i, n) - m) * r;
            put<Stream>(
                to + i,
                simd::fma(simd::load_upto<T, Arch>(gain + i, n), d, simd::load_upto<T, Arch>(shift + i, n)),
                n);
        });
    }
}

template <class T, class Arch, class Rows>
void rms_norm_of(executor_ref exec, Rows rows, const T* gain, T epsilon, matrix_view<T> y, T* rho) {
    const bool past = streams<T, Arch>(y) && rows.at(0).row != y.row(0);
    parallel_ranges(exec, y.rows, rows_per_unit, [&](index_t begin, index_t end) {
        with_stores(past, [&](auto stream) {
            rms_norm_rows<T, Arch, decltype(stream)::value>(rows, begin, end, gain, epsilon, y, rho);
        });
    });
}

template <class T, class Arch, class Rows>
void layer_norm_of(executor_ref exec, Rows rows, const T* gain, const T* shift, T epsilon, matrix_view<T> y,
                   T* statistics) {
    const bool past = streams<T, Arch>(y) && rows.at(0).row != y.row(0);
    parallel_ranges(exec, y.rows, rows_per_unit, [&](index_t begin, index_t end) {
        with_stores(past, [&](auto stream) {
            layer_norm_rows<T, Arch, decltype(stream)::value>(rows, begin, end, gain, shift, epsilon, y,
                                                              statistics);
        });
    });
}

}  // namespace detail

/// y = gain * x * rho, rho = 1 / sqrt(mean(x^2) + epsilon); rho: one value per row, saved for backward.
/// y may be x.
template <class T, class Arch = simd::default_arch>
void rms_norm(executor_ref exec, std::type_identity_t<matrix_view<const T>> x, const T* gain, T epsilon,
              matrix_view<T> y, T* rho) {
    detail::rms_norm_of<T, Arch>(exec, detail::given_rows<T, Arch>{x}, gain, epsilon, y, rho);
}

/// sum += x and then y = rms_norm(sum), in one pass over memory: the end of one residual block and the
/// beginning of the next. The same bits as add_rows and rms_norm one after the other.
template <class T, class Arch = simd::default_arch>
void add_rms_norm(executor_ref exec, std::type_identity_t<matrix_view<const T>> x, matrix_view<T> sum,
                  const T* gain, T epsilon, matrix_view<T> y, T* rho) {
    detail::rms_norm_of<T, Arch>(exec, detail::added_rows<T, Arch>{x, sum}, gain, epsilon, y, rho);
}

/// y = gain * (x - mean) rho + shift, rho = 1 / sqrt(var + epsilon) with the biased variance.
/// statistics: mean and rho of each row, 2 values per row, saved for backward. y may be x.
template <class T, class Arch = simd::default_arch>
void layer_norm(executor_ref exec, std::type_identity_t<matrix_view<const T>> x, const T* gain,
                const T* shift, T epsilon, matrix_view<T> y, T* statistics) {
    detail::layer_norm_of<T, Arch>(exec, detail::given_rows<T, Arch>{x}, gain, shift, epsilon, y, statistics);
}

/// sum += x and then y = layer_norm(sum), in one pass over memory. The same bits as add_rows and layer_norm
/// one after the other.
template <class T, class Arch = simd::default_arch>
void add_layer_norm(executor_ref exec, std::type_identity_t<matrix_view<const T>> x, matrix_view<T> sum,
                    const T* gain, const T* shift, T epsilon, matrix_view<T> y, T* statistics) {
    detail::layer_norm_of<T, Arch>(exec, detail::added_rows<T, Arch>{x, sum}, gain, shift, epsilon, y,
                                   statistics);
}

}  // namespace mox::inline MOX_ABI::kernel
