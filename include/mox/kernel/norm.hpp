#pragma once

// RMSNorm (arXiv 1910.07467) and LayerNorm (arXiv 1607.06450). The gradients of gain and shift sum over
// tokens; they are split over columns.

#include <algorithm>
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

namespace detail {

// `value` in the first `count` lanes, zero in the others.
template <class T, class Arch>
simd::batch<T, Arch> first_lanes(T value, index_t count) {
    constexpr index_t L = simd::lanes<T, Arch>;
    if (count == L) return simd::batch<T, Arch>(value);
    alignas(64) T lanes[static_cast<std::size_t>(L)] = {};
    std::fill_n(lanes, count, value);
    return simd::load<T, Arch>(lanes);
}

// y = gain * x * rho of one row whose sum of squares is known; returns rho.
template <class T, class Arch>
T rms_norm_row(const T* x, T squares, const T* gain, T epsilon, index_t size, T* y) {
    const T rho = T(1) / std::sqrt(squares / static_cast<T>(size) + epsilon);
    const simd::batch<T, Arch> r(rho);
    simd::for_each<T, Arch>(size, [&](index_t i, index_t n) {
        simd::store_upto(y + i,
                         simd::load_upto<T, Arch>(gain + i, n) * (simd::load_upto<T, Arch>(x + i, n) * r), n);
    });
    return rho;
}

}  // namespace detail

/// y = gain * x * rho, rho = 1 / sqrt(mean(x^2) + epsilon); rho: one value per row, saved for backward.
template <class T, class Arch = simd::default_arch>
void rms_norm(executor_ref exec, std::type_identity_t<matrix_view<const T>> x, const T* gain, T epsilon,
              matrix_view<T> y, T* rho) {
    parallel_ranges(exec, x.rows, rows_per_unit, [&](index_t begin, index_t end) {
        for (index_t t = begin; t < end; ++t) {
            const T squares = dot_row<T, Arch>(x.row(t), x.row(t), x.cols);
            rho[t] = detail::rms_norm_row<T, Arch>(x.row(t), squares, gain, epsilon, x.cols, y.row(t));
        }
    });
}

/// sum += x and then y = rms_norm(sum), in one pass over memory: the end of one residual block and the
/// beginning of the next. The same bits as add_rows and rms_norm one after the other.
template <class T, class Arch = simd::default_arch>
void add_rms_norm(executor_ref exec, std::type_identity_t<matrix_view<const T>> x, matrix_view<T> sum,
                  const T* gain, T epsilon, matrix_view<T> y, T* rho) {
    parallel_ranges(exec, x.rows, rows_per_unit, [&](index_t begin, index_t end) {
        for (index_t t = begin; t < end; ++t) {
            const T* from = x.row(t);
            T* total = sum.row(t);
            simd::batch<T, Arch> squares(T(0));
            simd::for_each<T, Arch>(x.cols, [&](index_t i, index_t n) {
                const auto v = simd::load_upto<T, Arch>(total + i, n) + simd::load_upto<T, Arch>(from + i, n);
                simd::store_upto(total + i, v, n);
                squares = simd::fma(v, v, squares);
            });
            rho[t] = detail::rms_norm_row<T, Arch>(total, simd::reduce_add(squares), gain, epsilon, x.cols,
                                                   y.row(t));
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
            using batch = simd::batch<T, Arch>;
            const T* from = x.row(t);
            T* to = y.row(t);
            const T width = static_cast<T>(x.cols);
            const T mean = detail::sum_row<T, Arch>(from, x.cols) / width;
            // A pass of its own, in cache: the difference of squares would lose digits when the mean is
            // large.
            batch squares(T(0));
            simd::for_each<T, Arch>(x.cols, [&](index_t i, index_t n) {
                const batch d = simd::load_upto<T, Arch>(from + i, n) - detail::first_lanes<T, Arch>(mean, n);
                squares = simd::fma(d, d, squares);
            });
            const T r = T(1) / std::sqrt(simd::reduce_add(squares) / width + epsilon);
            statistics[2 * t] = mean;
            statistics[2 * t + 1] = r;
            simd::for_each<T, Arch>(x.cols, [&](index_t i, index_t n) {
                const batch d = (simd::load_upto<T, Arch>(from + i, n) - batch(mean)) * batch(r);
                simd::store_upto(to + i,
                                 simd::fma(simd::load_upto<T, Arch>(gain + i, n), d,
                                           simd::load_upto<T, Arch>(shift + i, n)),
                                 n);
            });
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
