#pragma once

// RMSNorm (arXiv 1910.07467) and LayerNorm (arXiv 1607.06450). The gradients of gain and shift sum over
// tokens; they are split over columns.

#include <cmath>

#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/dot.hpp>
#include <mox/kernel/elementwise.hpp>

namespace mox::inline MOX_ABI::kernel {

namespace detail {

// sum of x[i].
template <class T, class Arch>
T sum_row(const T* x, index_t size) {
    simd::batch<T, Arch> sum(T(0));
    simd::for_each<T, Arch>(size,
                            [&](index_t i, index_t n) { sum = sum + simd::load_upto<T, Arch>(x + i, n); });
    return simd::reduce_add(sum);
}

}  // namespace detail

/// y = gain * x * rho, rho = 1 / sqrt(mean(x^2) + epsilon); rho: one value per row, saved for backward.
template <class T, class Arch = simd::default_arch>
void rms_norm(executor_ref exec, std::type_identity_t<matrix_view<const T>> x, const T* gain, T epsilon,
              matrix_view<T> y, T* rho) {
    parallel_ranges(exec, x.rows, rows_per_unit, [&](index_t begin, index_t end) {
        for (index_t t = begin; t < end; ++t) {
            const T* from = x.row(t);
            T* to = y.row(t);
            const T mean = dot_row<T, Arch>(from, from, x.cols) / static_cast<T>(x.cols);
            const T r = T(1) / std::sqrt(mean + epsilon);
            rho[t] = r;
            for (index_t j = 0; j < x.cols; ++j) to[j] = gain[j] * (from[j] * r);
        }
    });
}

/// With u = dy * gain: dx = rho (u - x rho^2 mean(u x)); dgain (+)= sum_t dy x rho.
/// dx may be empty.
template <class T, class Arch = simd::default_arch>
void rms_norm_backward(executor_ref exec, std::type_identity_t<matrix_view<const T>> x, const T* gain,
                       const T* rho, std::type_identity_t<matrix_view<const T>> dy, matrix_view<T> dx,
                       T* dgain, bool accumulate) {
    if (dx.data) {
        parallel_ranges(exec, x.rows, rows_per_unit, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                const T* xs = x.row(t);
                const T* ds = dy.row(t);
                T* to = dx.row(t);
                simd::batch<T, Arch> sum(T(0));
                simd::for_each<T, Arch>(x.cols, [&](index_t i, index_t n) {
                    const auto u =
                        simd::load_upto<T, Arch>(ds + i, n) * simd::load_upto<T, Arch>(gain + i, n);
                    sum = simd::fma(u, simd::load_upto<T, Arch>(xs + i, n), sum);
                });
                const T r = rho[t];
                const T c = r * r * simd::reduce_add(sum) / static_cast<T>(x.cols);
                for (index_t j = 0; j < x.cols; ++j) to[j] = r * (ds[j] * gain[j] - xs[j] * c);
            }
        });
    }
    if (dgain == nullptr) return;
    parallel_ranges(
        exec, x.cols, 64,
        [&](index_t begin, index_t end) {
            if (!accumulate) std::fill(dgain + begin, dgain + end, T(0));
            for (index_t t = 0; t < x.rows; ++t) {
                const T* MOX_RESTRICT xs = x.row(t);
                const T* MOX_RESTRICT ds = dy.row(t);
                T* MOX_RESTRICT to = dgain;
                const T r = rho[t];
                for (index_t j = begin; j < end; ++j) to[j] += ds[j] * (xs[j] * r);
            }
        },
        16);
}

/// y = gain * (x - mean) rho + shift, rho = 1 / sqrt(var + epsilon) with the biased variance.
/// statistics: mean and rho of each row, 2 values per row, saved for backward.
template <class T, class Arch = simd::default_arch>
void layer_norm(executor_ref exec, std::type_identity_t<matrix_view<const T>> x, const T* gain,
                const T* shift, T epsilon, matrix_view<T> y, T* statistics) {
    parallel_ranges(exec, x.rows, rows_per_unit, [&](index_t begin, index_t end) {
        for (index_t t = begin; t < end; ++t) {
            const T* from = x.row(t);
            T* to = y.row(t);
            const T width = static_cast<T>(x.cols);
            const T mean = detail::sum_row<T, Arch>(from, x.cols) / width;
            // Two passes: the difference of squares would lose digits when the mean is large.
            for (index_t j = 0; j < x.cols; ++j) to[j] = from[j] - mean;
            const T variance = dot_row<T, Arch>(to, to, x.cols) / width;
            const T r = T(1) / std::sqrt(variance + epsilon);
            statistics[2 * t] = mean;
            statistics[2 * t + 1] = r;
            for (index_t j = 0; j < x.cols; ++j) to[j] = gain[j] * (to[j] * r) + shift[j];
        }
    });
}

/// With n = (x - mean) rho and u = dy * gain: dx = rho (u - mean(u) - n mean(u n)); dshift (+)= sum dy;
/// dgain (+)= sum dy n. dx may be empty; dgain may be null when nobody trains gain and shift.
template <class T>
void layer_norm_backward(executor_ref exec, std::type_identity_t<matrix_view<const T>> x, const T* gain,
                         const T* statistics, std::type_identity_t<matrix_view<const T>> dy,
                         matrix_view<T> dx, T* dgain, T* dshift, bool accumulate) {
    if (dx.data) {
        parallel_ranges(exec, x.rows, rows_per_unit, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                const T* xs = x.row(t);
                const T* ds = dy.row(t);
                T* to = dx.row(t);
                const T mean = statistics[2 * t], r = statistics[2 * t + 1];
                T sum_u = 0, sum_un = 0;
                for (index_t j = 0; j < x.cols; ++j) {
                    const T u = ds[j] * gain[j];
                    sum_u += u;
                    sum_un += u * ((xs[j] - mean) * r);
                }
                const T width = static_cast<T>(x.cols);
                sum_u /= width;
                sum_un /= width;
                for (index_t j = 0; j < x.cols; ++j) {
                    to[j] = r * (ds[j] * gain[j] - sum_u - (xs[j] - mean) * r * sum_un);
                }
            }
        });
    }
    if (dgain == nullptr) return;
    parallel_ranges(
        exec, x.cols, 64,
        [&](index_t begin, index_t end) {
            if (!accumulate) {
                std::fill(dgain + begin, dgain + end, T(0));
                std::fill(dshift + begin, dshift + end, T(0));
            }
            for (index_t t = 0; t < x.rows; ++t) {
                const T* xs = x.row(t);
                const T* ds = dy.row(t);
                const T mean = statistics[2 * t], r = statistics[2 * t + 1];
                for (index_t j = begin; j < end; ++j) {
                    dshift[j] += ds[j];
                    dgain[j] += ds[j] * ((xs[j] - mean) * r);
                }
            }
        },
        16);
}

}  // namespace mox::inline MOX_ABI::kernel
