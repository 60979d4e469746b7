#pragma once

// The three register tiles everything else is made of. Each is a stand-alone function per size: inlined
// into their callers, compilers leave the accumulators in memory (measured: 40 instead of 104 GFLOP/s).
//
//   tile_product     c[r] (+)= s[r] * x[r] B         rows by pointer, B one column panel
//   tile_transposed  c[r] (+)= y[r] W'               rows by pointer, W in panels, dot products over columns
//   tile_outer       C    (+)= sum_t x[t]' y[t]      rows by pointer, tokens are the summed axis
//
// An element of a result is always summed in the same order, whatever tile it falls into: results do not
// depend on how work is cut.

#include <array>
#include <utility>

#include <mox/kernel/panels.hpp>
#include <mox/simd/batch.hpp>

namespace mox::inline MOX_ABI::kernel {

/// Rows of a product tile. More row pointers than this spill general registers and alias in the cache.
inline constexpr index_t product_rows = 6;

/// Side of the dot-product tile: 25 accumulators, 5 loads on each side; 9 where registers are 16.
template <class Arch>
inline constexpr index_t dot_side = simd::registers<Arch> == 32 ? 5 : 3;

namespace detail {

// What a product tile does beside its arithmetic at step k: nothing.
struct no_prefetch {
    void operator()(index_t) const noexcept {}
};

// Asks for one cache line of each of two ranges, so that the next panel arrives while this one is worked on;
// of the second range for its first lines only.
template <class T>
struct prefetch_two {
    const T* first;
    const T* second;
    index_t second_lines;
    void operator()(index_t k) const noexcept {
        constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));
        simd::prefetch(first + k * line);
        if (k < second_lines) simd::prefetch(second + k * line);
    }
};

template <class T, class Arch, int R, int V, class Beside>
MOX_INLINE void product_body(const T* const* x, const T* b, index_t ldb, index_t k_size, T* const* c,
                             const T* scale, bool accumulate, Beside beside) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    std::array<const T*, R> row;
    for (int r = 0; r < R; ++r) row[static_cast<std::size_t>(r)] = x[r];
    batch acc[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[r][v] = batch(T(0));
    }
// Clang unrolls eight steps that ask for memory and keeps their operands on the stack (measured: 50 instead
// of 99 % of the peak).
#pragma GCC unroll 1
    for (index_t k = 0; k < k_size; ++k) {
        batch bv[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) bv[v] = simd::load<T, Arch>(b + v * L);
        b += ldb;
        beside(k);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const batch a(row[static_cast<std::size_t>(r)][k]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) acc[r][v] = simd::fma(a, bv[v], acc[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        const batch s(scale ? scale[r] : T(1));
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            // One rounding or two is said here: left to the compiler, it would fuse the multiplication with
            // the addition in tiles of some sizes only, and sums would depend on how rows are cut.
            T* const to = c[r] + v * L;
            if (accumulate) {
                simd::store(to, simd::fma(acc[r][v], s, simd::load<T, Arch>(to)));
            } else {
                simd::store(to, scale ? acc[r][v] * s : acc[r][v]);
            }
        }
    }
}

}  // namespace detail

// c: one pointer per row, each to `V` registers of results. scale: one factor per row, or null.
template <class T, class Arch, int R, int V>
MOX_NOINLINE void tile_product(const T* const* x, const T* b, index_t ldb, index_t k_size, T* const* c,
                               const T* scale, bool accumulate) {
    detail::product_body<T, Arch, R, V>(x, b, ldb, k_size, c, scale, accumulate, detail::no_prefetch{});
}

// The same, and asks for the k_size cache lines from `first` on, and for some from `second` on.
template <class T, class Arch, int R, int V>
MOX_NOINLINE void tile_product_ahead(const T* const* x, const T* b, index_t ldb, index_t k_size, T* const* c,
                                     const T* scale, bool accumulate, const T* first, const T* second,
                                     index_t second_lines) {
    detail::product_body<T, Arch, R, V>(x, b, ldb, k_size, c, scale, accumulate,
                                        detail::prefetch_two<T>{first, second, second_lines});
}

// w: the panels, first row of interest k0; y rows must be readable up to w.cols.
template <class T, class Arch, int R, int C>
MOX_NOINLINE void tile_transposed(const T* const* y, panel_view<const T, Arch> w, index_t k0, T* const* c,
                                  bool accumulate) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    std::array<const T*, R> row;
    for (int r = 0; r < R; ++r) row[static_cast<std::size_t>(r)] = y[r];
    batch acc[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int j = 0; j < C; ++j) acc[r][j] = batch(T(0));
    }
    const index_t panels = w.panels();
    index_t n = 0;
    for (index_t p = 0; p < panels; ++p) {
        const index_t width = w.width(p);
        const T* b = w.panel(p) + k0 * width;
// Unrolled, GCC needs more registers for addresses than there are and moves an accumulator to memory
// (measured on an Emerald Rapids: 0.65 instead of 0.77 of the peak).
#pragma GCC unroll 1
        for (index_t i = 0; i < width; i += L, n += L) {
            batch bv[C];
#pragma GCC unroll 8
            for (int j = 0; j < C; ++j) bv[j] = simd::load<T, Arch>(b + j * width + i);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                const batch a = simd::load<T, Arch>(row[static_cast<std::size_t>(r)] + n);
#pragma GCC unroll 8
                for (int j = 0; j < C; ++j) acc[r][j] = simd::fma(a, bv[j], acc[r][j]);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int j = 0; j < C; ++j) {
            const T sum = simd::reduce_add(acc[r][j]);
            c[r][j] = accumulate ? c[r][j] + sum : sum;
        }
    }
}

// C[r][0 .. V registers) (+)= sum over t < n of x[t][r] * y[t][...]; row r of C at c + r * ldc.
template <class T, class Arch, int R, int V>
MOX_NOINLINE void tile_outer(const T* const* x, index_t x_offset, const T* const* y, index_t y_offset,
                             index_t n, T* c, index_t ldc, bool accumulate) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    batch acc[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            acc[r][v] = accumulate ? simd::load<T, Arch>(c + r * ldc + v * L) : batch(T(0));
        }
    }
    for (index_t t = 0; t < n; ++t) {
        const T* xt = x[t] + x_offset;
        const T* yt = y[t] + y_offset;
        batch bv[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) bv[v] = simd::load<T, Arch>(yt + v * L);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const batch a(xt[r]);
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

// Tables of the sizes: entry [rows - 1][vectors - 1].
template <class T, class Arch>
struct tile_table {
    using product_fn = void (*)(const T* const*, const T*, index_t, index_t, T* const*, const T*, bool);
    using ahead_fn = void (*)(const T* const*, const T*, index_t, index_t, T* const*, const T*, bool,
                              const T*, const T*, index_t);
    using transposed_fn = void (*)(const T* const*, panel_view<const T, Arch>, index_t, T* const*, bool);
    using outer_fn = void (*)(const T* const*, index_t, const T* const*, index_t, index_t, T*, index_t, bool);

    static constexpr int rows = product_rows;
    static constexpr int vectors = static_cast<int>(panel_vectors<Arch>);
    static constexpr int side = static_cast<int>(dot_side<Arch>);

    static void product(index_t r, index_t v, const T* const* x, const T* b, index_t ldb, index_t k,
                        T* const* c, const T* scale, bool accumulate) {
        products[static_cast<std::size_t>((r - 1) * vectors + v - 1)](x, b, ldb, k, c, scale, accumulate);
    }
    /// A full-width tile that asks for two ranges of cache lines.
    static void product_ahead(index_t r, const T* const* x, const T* b, index_t ldb, index_t k, T* const* c,
                              const T* scale, bool accumulate, const T* first, const T* second,
                              index_t second_lines) {
        aheads[static_cast<std::size_t>(r - 1)](x, b, ldb, k, c, scale, accumulate, first, second,
                                                second_lines);
    }
    static void transposed(index_t r, index_t j, const T* const* y, panel_view<const T, Arch> w, index_t k0,
                           T* const* c, bool accumulate) {
        dots[static_cast<std::size_t>((r - 1) * side + j - 1)](y, w, k0, c, accumulate);
    }
    static void outer(index_t r, index_t v, const T* const* x, index_t xo, const T* const* y, index_t yo,
                      index_t n, T* c, index_t ldc, bool accumulate) {
        outers[static_cast<std::size_t>((r - 1) * vectors + v - 1)](x, xo, y, yo, n, c, ldc, accumulate);
    }

private:
    template <int... I>
    static constexpr auto make_products(std::integer_sequence<int, I...>) {
        return std::array<product_fn, sizeof...(I)>{
            &tile_product<T, Arch, I / vectors + 1, I % vectors + 1>...};
    }
    template <int... I>
    static constexpr auto make_aheads(std::integer_sequence<int, I...>) {
        return std::array<ahead_fn, sizeof...(I)>{&tile_product_ahead<T, Arch, I + 1, vectors>...};
    }
    template <int... I>
    static constexpr auto make_dots(std::integer_sequence<int, I...>) {
        return std::array<transposed_fn, sizeof...(I)>{
            &tile_transposed<T, Arch, I / side + 1, I % side + 1>...};
    }
    template <int... I>
    static constexpr auto make_outers(std::integer_sequence<int, I...>) {
        return std::array<outer_fn, sizeof...(I)>{&tile_outer<T, Arch, I / vectors + 1, I % vectors + 1>...};
    }

    static constexpr auto products = make_products(std::make_integer_sequence<int, rows * vectors>{});
    static constexpr auto aheads = make_aheads(std::make_integer_sequence<int, rows>{});
    static constexpr auto dots = make_dots(std::make_integer_sequence<int, side * side>{});
    static constexpr auto outers = make_outers(std::make_integer_sequence<int, rows * vectors>{});
};

/// Cuts `size` rows into tiles of at most `most`, as even as possible: 7 becomes 4 + 3, never 6 + 1.
template <class Body>
void even_tiles(index_t size, index_t most, Body&& body) {
    index_t tiles = divide_up(size, most);
    index_t begin = 0;
    for (; tiles > 0; --tiles) {
        const index_t rows = divide_up(size - begin, tiles);
        body(begin, rows);
        begin += rows;
    }
}

}  // namespace mox::inline MOX_ABI::kernel
