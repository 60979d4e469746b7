#pragma once

// Products with weights as they lie in a user's memory: row-major, used once or a few times, not worth
// packing. Weights that stay are better kept in panels (panels.hpp).

#include <mox/kernel/gemm.hpp>

namespace mox::inline MOX_ABI::kernel {

namespace detail {

// Rows of weights that all rows of x pass before the next ones are read, and meanwhile those are asked for in
// the order in which they lie in memory: by columns, pieces of 256 bytes a row apart, they arrive at half the
// speed. Measured with weights of 512 x 2048 from memory, 16, 32, 64, 128 rows of them: 6.5, 6.0, 6.3, 7.3 ms
// for 16 rows of x, 28, 24, 22, 23 ms for 64.
inline constexpr index_t row_major_depth = 32;

// From so many rows of x on, the piece of weights that they pass is copied together first: its rows, a power
// of two apart, share a few sets of the first cache, and every tile would fetch them from the second again.
// Measured like above, copied against not: 16, 32, 64, 128, 256 rows: 3.6, 6.2, 11.8, 22.4, 43.5 against 3.0,
// 6.3, 12.1, 24.3, 49.1 ms; with 32 or 128 rows of weights at a time 23.7 and 22.1 ms for 128 rows, 6.4 and
// 7.4 for 32.
inline constexpr index_t rows_worth_copying = 32, copied_depth = 64;

// to = the panel's width of `rows` rows from `from` on, one after the other.
template <class T, class Arch>
void copy_piece(const T* from, index_t stride, index_t rows, T* to) noexcept {
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t W = panel_width<T, Arch>;
    for (index_t j = 0; j < rows; ++j, from += stride, to += W) {
#pragma GCC unroll 4
        for (index_t i = 0; i < W; i += L) simd::store(to + i, simd::load<T, Arch>(from + i));
    }
}

}  // namespace detail

/// out[i] (+)= scale[i] * x[i] W for i in [begin, end); W: x's width x out.cols, row-major. One unit of work
/// of one thread. `all`: rows of the whole product, where threads share it: their number decides in which
/// order is summed, so that the same bits come from any split.
template <class T, class Arch = simd::default_arch>
void product_row_major(row_source<const T> x, index_t begin, index_t end,
                       std::type_identity_t<matrix_view<const T>> w, row_target<T> out, index_t all) {
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t W = panel_width<T, Arch>;
    constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));
    constexpr index_t pairs = std::max<index_t>(1, W / line / 2);
    const index_t panels = out.cols / W;  // whole ones
    const bool copies = all >= detail::rows_worth_copying;
    const index_t depth = copies ? detail::copied_depth : detail::row_major_depth;
    alignas(64) T piece[static_cast<std::size_t>(detail::copied_depth * W)];
    for (index_t k0 = 0; k0 < w.rows; k0 += depth) {
        const index_t k = std::min(depth, w.rows - k0);
        const bool accumulate = out.accumulate || k0 > 0;
        const auto tiles = [&](index_t c0, auto&& multiply) {
            even_tiles(end - begin, product_rows, [&](index_t offset, index_t rows) {
                const T* xs[product_rows];
                T* cs[product_rows];
                T scale[product_rows];
                const T* const s = detail::point_at_rows(x, out, begin + offset, rows, k0, c0, xs, cs, scale);
                multiply(rows, xs, cs, s);
            });
        };
        for (index_t p = 0; p < panels; ++p) {
            const T* const there = w.row(k0) + p * W;
            if (copies) detail::copy_piece<T, Arch>(there, w.stride, k, piece);
            const T* const b = copies ? piece : there;
            const index_t b_stride = copies ? W : w.stride;
            index_t number = 0;
            tiles(p * W, [&](index_t rows, const T* const* xs, T* const* cs, const T* s) {
                if (number < pairs && k0 + 2 * k <= w.rows) {
                    // This tile's share of the next rows, as if they were one row after the other.
                    const index_t share = (p * pairs + number++) * 2 * line * k;
                    const T* const next = w.row(k0 + k + share / (panels * W)) + share % (panels * W);
                    tile_table<T, Arch>::product_ahead(rows, xs, b, b_stride, k, cs, s, accumulate, next,
                                                       W > line ? next + k * line : next, k);
                } else {
                    tile_table<T, Arch>::product(rows, panel_vectors<Arch>, xs, b, b_stride, k, cs, s,
                                                 accumulate);
                }
            });
        }
        // What is left of the columns, a register at a time; the last one may be part of a register, and what
        // lies behind it is the next row's or nobody's.
        for (index_t c0 = panels * W; c0 < out.cols; c0 += L) {
            const index_t valid = std::min(L, out.cols - c0);
            for (index_t j = 0; j < k; ++j)
                simd::store(piece + j * L, simd::load_upto<T, Arch>(w.row(k0 + j) + c0, valid));
            tiles(c0, [&](index_t rows, const T* const* xs, T* const* cs, const T* s) {
                alignas(64) T tile[static_cast<std::size_t>(product_rows * L)];
                T* ts[product_rows];
                for (index_t r = 0; r < rows; ++r) ts[r] = tile + r * L;
                tile_table<T, Arch>::product(rows, 1, xs, piece, L, k, ts, s, false);
                for (index_t r = 0; r < rows; ++r) {
                    for (index_t j = 0; j < valid; ++j)
                        cs[r][j] = accumulate ? cs[r][j] + ts[r][j] : ts[r][j];
                }
            });
        }
    }
}

template <class T, class Arch = simd::default_arch>
void product_row_major(row_source<const T> x, index_t begin, index_t end,
                       std::type_identity_t<matrix_view<const T>> w, row_target<T> out) {
    product_row_major<T, Arch>(x, begin, end, w, out, end - begin);
}

}  // namespace mox::inline MOX_ABI::kernel
