#pragma once

// The pieces of blockwise attention: keys transposed into panels, a block of scores, and the product of a
// block of weights with rows.
//
// Keys are packed with scale * weight_unit multiplied in, so that a score is the argument of simd::weight but
// for the shift of its row.

#include <array>
#include <utility>

#include <mox/kernel/attention_shape.hpp>
#include <mox/kernel/tile.hpp>
#include <mox/simd/exp_weight.hpp>
#include <mox/simd/transpose.hpp>

namespace mox::inline MOX_ABI::kernel::detail {

/// Up to this many rows that pass over them, others are read where they lie instead of from a copy without
/// gaps. Measured: the copy costs 5 to 10 % of the forward time at 32 to 512 queries and saves 8 % at 2048 of
/// 16 heads, whose rows fall into few sets of the first cache level.
inline constexpr index_t few_rows = 512;

template <class T>
T score_factor(const attention_shape& s) {
    return static_cast<T>(s.scale * static_cast<double>(simd::weight_unit<T>));
}

// Rows of one head lie far apart, each on another page: hardware does not guess the next.
template <class T>
MOX_INLINE void prefetch_row(matrix_view<const T> from, index_t row) {
    if (row >= from.rows) return;
    const char* at = reinterpret_cast<const char*>(from.row(row));
    for (index_t i = 0; i < from.cols * static_cast<index_t>(sizeof(T)); i += static_cast<index_t>(alignment))
        __builtin_prefetch(at + i);
}

// A square as wide as a register, its rows behind each other: to[j][i] = from[i][j]. Inlined it is a few
// hundred instructions at every place.
template <class T, class Arch>
MOX_NOINLINE void transpose(const T* from, T* to, index_t to_stride) {
    simd::transpose_square<T, Arch>(from, simd::lanes<T, Arch>, to, to_stride);
}

// from: n rows of d values -> panels with one column per row (the transpose) times a factor, padding zero.
template <class T, class Arch>
MOX_NOINLINE void pack_transposed(matrix_view<const T> from, T factor, T* to) {
    const simd::batch<T, Arch> factors(factor);
    constexpr index_t W = panel_width<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    const index_t d = from.cols;
    const panel_view<T, Arch> panels(to, d, panel_layout<T, Arch>::padded(from.rows));
    alignas(64) T square[static_cast<std::size_t>(L * L)];
    for (index_t j = 0; j < from.rows; j += L) {
        const index_t width = panels.width(j / W), valid = std::min(L, from.rows - j);
        T* base = panels.panel(j / W) + j % W;
        for (index_t i = 0; i < L; ++i) prefetch_row(from, j + L + i);
        index_t k = 0;
        for (; k + L <= d; k += L) {
            for (index_t i = 0; i < valid; ++i)
                simd::store(square + i * L, simd::load<T, Arch>(from.row(j + i) + k) * factors);
            for (index_t i = valid; i < L; ++i) simd::store(square + i * L, simd::batch<T, Arch>(T(0)));
            transpose<T, Arch>(square, base + k * width, width);
        }
        for (; k < d; ++k) {
            for (index_t i = 0; i < L; ++i)
                base[k * width + i] = i < valid ? from.row(j + i)[k] * factor : T(0);
        }
    }
}

// from: n rows of d values -> rows of `stride` values, padding zero.
template <class T, class Arch>
MOX_NOINLINE void pack_rows(matrix_view<const T> from, T* to, index_t stride) {
    constexpr index_t L = simd::lanes<T, Arch>;
    for (index_t i = 0; i < from.rows; ++i, to += stride) {
        prefetch_row(from, i + 8);
        const T* row = from.row(i);
        index_t k = 0;
        for (; k + L <= from.cols; k += L) simd::store(to + k, simd::load<T, Arch>(row + k));
        for (; k < from.cols; ++k) to[k] = row[k];
        for (; k < stride; ++k) to[k] = T(0);
    }
}

// c[r] = c[r] * carry[r] + sum over k of x[r][k] * row k of b, summed in this order wherever the sum is cut:
// the numbers of a row depend neither on its place in the tile nor on where a causal mask ends it.
template <class T, class Arch, int R, int V>
MOX_NOINLINE void tile_weighted(const T* x, index_t ldx, const T* b, index_t ldb, index_t k_size,
                                const T* carry, T* c, index_t ldc) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    std::array<const T*, R> row;
    for (int r = 0; r < R; ++r) row[static_cast<std::size_t>(r)] = x + r * ldx;
    batch acc[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        const batch kept(carry ? carry[r] : T(1));
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[r][v] = simd::load<T, Arch>(c + r * ldc + v * L) * kept;
    }
    for (index_t k = 0; k < k_size; ++k) {
        batch bv[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) bv[v] = simd::load<T, Arch>(b + v * L);
        b += ldb;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const batch a(row[static_cast<std::size_t>(r)][k]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) acc[r][v] = simd::fma(a, bv[v], acc[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) simd::store(c + r * ldc + v * L, acc[r][v]);
    }
}

// One, two or four registers of columns: what is between takes two steps.
template <class T, class Arch>
struct weighted_table {
    using function = void (*)(const T*, index_t, const T*, index_t, index_t, const T*, T*, index_t);
    static constexpr int widths = panel_vectors<Arch> == 4 ? 3 : 2;
    static_assert(panel_vectors<Arch> == 1 << (widths - 1));

    template <int... I>
    static constexpr auto make(std::integer_sequence<int, I...>) {
        return std::array<function, sizeof...(I)>{
            &tile_weighted<T, Arch, I / widths + 1, (1 << I % widths)>...};
    }
    static constexpr auto all =
        make(std::make_integer_sequence<int, static_cast<int>(product_rows) * widths>{});

    /// Columns [0, dp) of a tile of rows.
    static void rows(index_t count, const T* x, index_t ldx, const T* b, index_t ldb, index_t dp, index_t k,
                     const T* carry, T* c) {
        constexpr index_t L = simd::lanes<T, Arch>;
        index_t j = 0;
        for (int width = widths - 1; width >= 0; --width) {
            const auto tile = all[static_cast<std::size_t>((count - 1) * widths + width)];
            for (; j + (L << width) <= dp; j += L << width) tile(x, ldx, b + j, ldb, k, carry, c + j, dp);
        }
    }
};

// c += sum over k of x[k * step] * row k of b: what a tile does for one row, of any width.
template <class T, class Arch>
MOX_NOINLINE void add_weighted_row(const T* x, index_t step, const T* b, index_t ldb, index_t dp,
                                   index_t k_size, T* c) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr int V = static_cast<int>(panel_vectors<Arch>);
    index_t j = 0;
    for (; j + V * L <= dp; j += V * L) {
        batch acc[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[v] = simd::load<T, Arch>(c + j + v * L);
        for (index_t k = 0; k < k_size; ++k) {
            const batch a(x[k * step]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v)
                acc[v] = simd::fma(a, simd::load<T, Arch>(b + k * ldb + j + v * L), acc[v]);
        }
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) simd::store(c + j + v * L, acc[v]);
    }
    for (; j < dp; j += L) {
        batch acc = simd::load<T, Arch>(c + j);
        for (index_t k = 0; k < k_size; ++k)
            acc = simd::fma(batch(x[k * step]), simd::load<T, Arch>(b + k * ldb + j), acc);
        simd::store(c + j, acc);
    }
}

// The part of a causal mask that a block of query rows [begin, begin + count) and a block of keys [first,
// last) have in common. Rows are counted from `begin`, keys from `first`.
struct visible_block {
    const attention_sequence& sequence;
    index_t begin, count, first, last;

    /// Keys of the block that row r sees.
    index_t keys(index_t r) const noexcept {
        return std::clamp<index_t>(sequence.visible(begin + r) - first, 0, last - first);
    }
    /// The first row that sees key j of the block, at most `count`.
    index_t row(index_t j) const noexcept {
        return std::clamp<index_t>(sequence.first_query(first + j) - begin, 0, count);
    }
};

// scores[r][j] = x_r . column first + j of the panels for the keys of the block that some row of the tile
// sees, and up to a register more. A panel stays in the first cache level while all tiles of rows pass it.
template <class T, class Arch>
void block_products(const visible_block& tile_block, const T* x, index_t ldx,
                    panel_view<const T, Arch> panels, T* scores, index_t stride) {
    constexpr index_t W = panel_width<T, Arch>, L = simd::lanes<T, Arch>;
    for (index_t j = 0; tile_block.first + j < tile_block.last; j += W) {
        const index_t p = (tile_block.first + j) / W;
        const index_t width = panels.width(p);
        even_tiles(tile_block.count, product_rows, [&](index_t offset, index_t tile) {
            const index_t seen = std::min(width, tile_block.keys(offset + tile - 1) - j);
            if (seen <= 0) return;
            const T* rows[product_rows];
            T* to[product_rows];
            for (index_t r = 0; r < tile; ++r) {
                rows[r] = x + (offset + r) * ldx;
                to[r] = scores + (offset + r) * stride + j;
            }
            tile_table<T, Arch>::product(tile, divide_up(seen, L), rows, panels.panel(p), width, panels.rows,
                                         to, nullptr, false);
        });
    }
}

// c_r = c_r * carry[r] + sum over the keys that row r sees of weights[r][j] * row j of b. The keys that all
// rows of a tile see in a tile, the few others row by row, so that a value a row must not see is not even
// multiplied by zero.
template <class T, class Arch>
void block_weighted_rows(const visible_block& tile_block, const T* weights, index_t stride, const T* b,
                         index_t ldb, index_t dp, const T* carry, T* c) {
    even_tiles(tile_block.count, product_rows, [&](index_t offset, index_t tile) {
        if (tile_block.keys(offset + tile - 1) == 0) return;
        const index_t common = tile_block.keys(offset);
        weighted_table<T, Arch>::rows(tile, weights + offset * stride, stride, b, ldb, dp, common,
                                      carry ? carry + offset : nullptr, c + offset * dp);
        if (tile_block.keys(offset + tile - 1) == common) return;
        for (index_t r = offset + 1; r < offset + tile; ++r) {
            add_weighted_row<T, Arch>(weights + r * stride + common, 1, b + common * ldb, ldb, dp,
                                      tile_block.keys(r) - common, c + r * dp);
        }
    });
}

}  // namespace mox::inline MOX_ABI::kernel::detail
