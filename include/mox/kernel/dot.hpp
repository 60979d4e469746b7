#pragma once

// Dot products of rows.

#include <algorithm>

#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/elementwise.hpp>
#include <mox/kernel/four_sums.hpp>
#include <mox/simd/batch.hpp>

namespace mox::inline MOX_ABI::kernel {

/// sum x[i] * y[i].
template <class T, class Arch = simd::default_arch>
T dot_row(const T* x, const T* y, index_t size) {
    detail::four_sums<T, Arch> sum;
    detail::for_each_of_four<T, Arch>(size, [&](int k, index_t i, index_t n) {
        sum.part[k] =
            simd::fma(simd::load_upto<T, Arch>(x + i, n), simd::load_upto<T, Arch>(y + i, n), sum.part[k]);
    });
    return sum.total();
}

/// out[t] = x_t . w for every row.
template <class T, class Arch = simd::default_arch>
void dot_rows(executor_ref exec, matrix_view<const T> x, const T* w, T* out) {
    parallel_ranges(exec, x.rows, rows_per_unit, [&](index_t begin, index_t end) {
        for (index_t t = begin; t < end; ++t) out[t] = dot_row<T, Arch>(x.row(t), w, x.cols);
    });
}

/// dx_t += dout[t] w (when dx is not empty) and dw (+)= sum_t dout[t] x_t (when dw is not null). Columns are
/// split over threads, so the sum over tokens has one order.
template <class T, class Arch = simd::default_arch>
void dot_rows_backward(executor_ref exec, matrix_view<const T> x, const T* w, const T* dout,
                       matrix_view<T> dx, T* dw, bool accumulate) {
    parallel_ranges(
        exec, x.cols, columns_per_unit,
        [&](index_t begin, index_t end) {
            if (dw && !accumulate) std::fill(dw + begin, dw + end, T(0));
            for (index_t t = 0; t < x.rows; ++t) {
                const T d = dout[t];
                if (d == T(0)) continue;
                const T* row = x.row(t);
                if (dw) {
                    for (index_t j = begin; j < end; ++j) dw[j] += d * row[j];
                }
                if (dx.data == nullptr) continue;
                T* to = dx.row(t);
                for (index_t j = begin; j < end; ++j) to[j] += d * w[j];
            }
        },
        columns_per_line);
}

}  // namespace mox::inline MOX_ABI::kernel
