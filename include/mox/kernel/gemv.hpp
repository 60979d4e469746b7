#pragma once

// One row times a panel: the time is the reading of weights. The arithmetic is that of tile_product, step by
// step, so that a row's result does not depend on how many rows there are; only memory is asked earlier.

#include <array>
#include <utility>

#include <mox/kernel/panel_prefetch.hpp>
#include <mox/kernel/panels.hpp>
#include <mox/simd/batch.hpp>

namespace mox::inline MOX_ABI::kernel {

/// Up to so many rows a panel is streamed. Measured from memory in pages of 4 KB: one row 17 GB/s where
/// tile_product reads 14, two rows 13.5 and 14. In huge pages only the last panel asks (gemm.hpp,
/// next_panel).
inline constexpr index_t streamed_rows = 1;

/// tile_product (kernel/tile.hpp) that asks for the panel at `ahead`, or null.
template <class T, class Arch, int V>
MOX_NOINLINE void stream_product(const T* const* x, const T* b, index_t k_size, T* const* c, const T* scale,
                                 bool accumulate, const T* ahead) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    const T* const row = x[0];
    batch acc[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[v] = batch(T(0));
    panel_prefetch<Arch, V> prefetch(reinterpret_cast<const std::byte*>(ahead), k_size);
    for (index_t k = 0; k < k_size; ++k) {
        if (ahead) prefetch.next();
        const batch a(row[k]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[v] = simd::fma(a, simd::load<T, Arch>(b + v * L), acc[v]);
        b += V * L;
    }
    const batch s(scale ? scale[0] : T(1));
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
        T* const to = c[0] + v * L;
        if (accumulate) {
            simd::store(to, simd::fma(acc[v], s, simd::load<T, Arch>(to)));
        } else {
            simd::store(to, scale ? acc[v] * s : acc[v]);
        }
    }
}

/// The above for one row and `vectors` registers.
template <class T, class Arch>
void stream_panel(index_t vectors, const T* const* x, const T* b, index_t k_size, T* const* c, const T* scale,
                  bool accumulate, const T* ahead) {
    using function = void (*)(const T* const*, const T*, index_t, T* const*, const T*, bool, const T*);
    static constexpr auto table = []<int... V>(std::integer_sequence<int, V...>) {
        return std::array<function, sizeof...(V)>{&stream_product<T, Arch, V + 1>...};
    }
    (std::make_integer_sequence<int, static_cast<int>(panel_vectors<Arch>)>{});
    table[static_cast<std::size_t>(vectors - 1)](x, b, k_size, c, scale, accumulate, ahead);
}

}  // namespace mox::inline MOX_ABI::kernel
