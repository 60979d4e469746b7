#pragma once

// The lengths of the columns of a weight matrix with a low-rank update, which is never written anywhere: what
// layers with learned magnitudes divide by.

#include <cmath>

#include <mox/kernel/gemm.hpp>

namespace mox::inline MOX_ABI::kernel {

namespace detail {

// Rows of W + a B at once: with the widest panel 12 KB, beside the B of 64 ranks (16 KB) in a first cache
// level of 32 KB.
inline constexpr index_t norm_rows = 48;

}  // namespace detail

/// norm[o] = |column first + o of W + column o of a B| for the columns of panels [p0, p1) of B. W: in x
/// anything; a: in x ranks, row-major; b: ranks x cols. The sum runs over the inputs in their order. One unit
/// of work of one thread.
template <class T, class Arch = simd::default_arch>
void column_norms(std::type_identity_t<panel_view<const T, Arch>> w, index_t first,
                  std::type_identity_t<matrix_view<const T>> a,
                  std::type_identity_t<panel_view<const T, Arch>> b, index_t cols, index_t p0, index_t p1,
                  T* norm) {
    constexpr index_t W = panel_width<T, Arch>;
    alignas(64) T tile[static_cast<std::size_t>(detail::norm_rows * W)];
    alignas(64) T sum[static_cast<std::size_t>(W)];
    for (index_t p = p0; p < p1; ++p) {
        const index_t width = b.width(p), valid = std::min(width, cols - p * W);
        std::fill_n(sum, W, T(0));
        for (index_t i0 = 0; i0 < a.rows; i0 += detail::norm_rows) {
            const index_t rows = std::min(detail::norm_rows, a.rows - i0);
            // The same columns of W, which may lie in two of its panels.
            for (index_t done = 0; done < valid;) {
                const index_t col = first + p * W + done, from = w.width(col / W);
                const index_t count = std::min(valid - done, from - col % W);
                const T* source = w.panel(col / W) + i0 * from + col % W;
                for (index_t i = 0; i < rows; ++i) std::copy_n(source + i * from, count, tile + i * W + done);
                done += count;
            }
            for (index_t i = 0; i < rows && valid < width; ++i)
                std::fill(tile + i * W + valid, tile + i * W + width, T(0));
            const panel_view<const T, Arch> one(b.panel(p), b.rows, width);
            product<T, Arch>(row_source<const T>(a.row(i0), a.stride), 0, rows, one, 0, 1,
                             {row_source<T>(tile, W), width, nullptr, true});
            for (index_t i = 0; i < rows; ++i) {
                simd::for_each<T, Arch>(width, [&](index_t j, index_t) {
                    const auto v = simd::load<T, Arch>(tile + i * W + j);
                    simd::store(sum + j, simd::fma(v, v, simd::load<T, Arch>(sum + j)));
                });
            }
        }
        for (index_t j = 0; j < valid; ++j) norm[p * W + j] = std::sqrt(sum[j]);
    }
}

}  // namespace mox::inline MOX_ABI::kernel
