#pragma once

// x W for a W of few columns: the router of a handful of experts. Where they fill less than half of a
// register, tiles of half registers do twice the work per instruction. Every element is the same chain of
// sums as in the wide tile.

#include <array>
#include <utility>

#include <mox/kernel/dense.hpp>
#include <mox/simd/half.hpp>

namespace mox::inline MOX_ABI::kernel {

namespace detail {

// c[r][0 .. half a register) = x[r] W; rows of W are `ldw` apart.
template <class T, class Arch, int R>
MOX_NOINLINE void tile_narrow(const T* const* x, const T* w, index_t ldw, index_t k_size, T* c) {
    using half = simd::half_register<T, Arch>;
    std::array<const T*, R> row;
    for (int r = 0; r < R; ++r) row[static_cast<std::size_t>(r)] = x[r];
    half acc[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) acc[r] = half{};
    for (index_t k = 0; k < k_size; ++k, w += ldw) {
        const half b = half::load(w);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
            acc[r] = half::add_product(row[static_cast<std::size_t>(r)][k], b, acc[r]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) acc[r].store(c + r * half::lanes);
}

template <class T, class Arch, int... I>
constexpr auto narrow_tiles(std::integer_sequence<int, I...>) {
    return std::array{&tile_narrow<T, Arch, I + 1>...};
}

}  // namespace detail

/// y = x W. Measured with 8 columns, 512 rows of 1024: 96 us in half registers of 8, 146 us in full ones.
template <class T, class Arch = simd::default_arch>
void narrow_dense(executor_ref exec, std::type_identity_t<panel_view<const T, Arch>> w,
                  std::type_identity_t<matrix_view<const T>> x, matrix_view<T> y) {
    if constexpr (simd::has_half<T, Arch>) {
        constexpr index_t half = simd::lanes<T, Arch> / 2;
        if (w.cols == simd::lanes<T, Arch> && y.cols <= half) {
            static constexpr auto tiles =
                detail::narrow_tiles<T, Arch>(std::make_integer_sequence<int, product_rows>{});
            // Eight tiles of 1024 steps are 9 us.
            parallel_ranges(exec, x.rows, 8 * product_rows, [&](index_t begin, index_t end) {
                even_tiles(end - begin, product_rows, [&](index_t offset, index_t rows) {
                    const T* xs[product_rows];
                    T tile[static_cast<std::size_t>(product_rows * half)];
                    for (index_t r = 0; r < rows; ++r) xs[r] = x.row(begin + offset + r);
                    tiles[static_cast<std::size_t>(rows - 1)](xs, w.panel(0), w.width(0), w.rows, tile);
                    for (index_t r = 0; r < rows; ++r)
                        std::copy_n(tile + r * half, y.cols, y.row(begin + offset + r));
                });
            });
            return;
        }
    }
    dense<T>(exec, w, x, y);
}

}  // namespace mox::inline MOX_ABI::kernel
