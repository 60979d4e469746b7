#pragma once

// Register tiles of packed weights: out[r] = x[r] B for one panel B. Rows come as the format wants them
// (kernel/packed_rows.hpp). Like those of kernel/tile.hpp they are stand-alone functions per size. One kernel
// serves one row and many: with four registers of a panel a single row keeps four chains of sums, which is
// as fast as memory delivers weights.
//
// `ahead`: the panel that is multiplied next, or null. It is asked for while this one is multiplied, so that
// panels stream through memory in the caller's order, whatever lies between them (kernel/panel_prefetch.hpp).
// Measured from memory on a busy machine, with and without asking for a neighbour: one row bf16 20 and 13
// GB/s, int8 14 and 12, int4 13 and 15; two rows bf16 12 and 13, int8 16 and 16. So it is asked for when
// there is one row and the format is not int4; else neighbouring panels are left to the hardware.

#include <array>
#include <utility>

#include <mox/kernel/panel_prefetch.hpp>
#include <mox/kernel/weight_format.hpp>
#include <mox/simd/dot.hpp>

namespace mox::inline MOX_ABI::kernel {

/// Rows of a tile of the format: its accumulators fill the registers. int4 has two kinds of them; where bf16
/// is widened first, the panel and a row take two registers for one (measured with AVX-512 alone: 4 rows
/// reach the peak, of 6 rows Clang makes 33 to 59 % of it).
template <class F, class Arch = simd::default_arch>
inline constexpr index_t packed_tile_rows = simd::registers<Arch> == 32 ? 6 : 4;
template <class Arch>
inline constexpr index_t packed_tile_rows<weight::bf16, Arch> =
    simd::registers<Arch> == 32 && simd::has_bf16_dot<Arch> ? 6 : 4;
template <index_t G, weight::zero Z, weight::rows R, class Arch>
inline constexpr index_t packed_tile_rows<weight::int4<G, Z, R>, Arch> = simd::registers<Arch> == 32 ? 3 : 2;

/// Whether one row asks for the panel behind its own also when that follows it in memory. Measured with huge
/// pages, asking and not: bf16 0.89 and 0.97 of the read bandwidth, int8 0.83 and 0.89.
template <class F>
inline constexpr bool fetches_neighbours = !has_huge_pages;
template <index_t G, weight::zero Z, weight::rows R>
inline constexpr bool fetches_neighbours<weight::int4<G, Z, R>> = false;

/// A row as the format wants it.
template <class T>
struct packed_row {
    const std::byte* codes = nullptr;
    T scale = 1;                         ///< int8, int4: what a code of the row is worth
    const std::int32_t* sums = nullptr;  ///< int4: of the codes of each group
};

template <class Arch, int R, int V>
MOX_NOINLINE void tile_bf16(const packed_row<float>* x, const std::byte* b, index_t k_size,
                            const std::byte* ahead, float* out, index_t ldc) {
    constexpr index_t L = simd::lanes<float, Arch>;
    constexpr index_t step = V * 4 * L;
    std::array<const std::byte*, R> row;
    for (int r = 0; r < R; ++r) row[static_cast<std::size_t>(r)] = x[r].codes;
    simd::batch<float, Arch> acc[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[r][v] = simd::batch<float, Arch>(0.0f);
    }
    const index_t pairs = divide_up(k_size, 2);
    panel_prefetch<Arch, V> prefetch(ahead, pairs);
// Clang unrolls eight steps, loads what all of them need and leaves it on the stack (measured in a 6 x 4
// tile: 58 instead of 99 % of the peak).
#pragma GCC unroll 1
    for (index_t i = 0; i < pairs; ++i) {
        if (ahead) prefetch.next();
        simd::words<Arch> bv[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) bv[v] = simd::load_words<Arch>(b + 4 * v * L);
        b += step;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const auto a = simd::broadcast_word<Arch>(row[static_cast<std::size_t>(r)] + 4 * i);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) acc[r][v] = simd::dot_bf16<Arch>(acc[r][v], a, bv[v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) simd::store(out + r * ldc + v * L, acc[r][v]);
    }
}

template <class Arch, int R, int V>
MOX_NOINLINE void tile_int8(const packed_row<float>* x, const std::byte* b, index_t k_size,
                            const std::byte* ahead, float* out, index_t ldc) {
    constexpr index_t L = simd::lanes<float, Arch>;
    constexpr index_t step = V * 4 * L;
    std::array<const std::byte*, R> row;
    for (int r = 0; r < R; ++r) row[static_cast<std::size_t>(r)] = x[r].codes;
    const std::byte* const scales = b;
    simd::words<Arch> acc[R][V];
    // Codes of rows are unsigned, 128 too large: the sums begin with what takes that back.
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
        const auto correction = simd::load_words<Arch>(b + step + 4 * v * L);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) acc[r][v] = correction;
    }
    b += 2 * step;
    const index_t quads = divide_up(k_size, 4);
    panel_prefetch<Arch, V> prefetch(ahead, quads + 2);
    if (ahead) prefetch.next();
    if (ahead) prefetch.next();
    for (index_t i = 0; i < quads; ++i) {
        if (ahead) prefetch.next();
        simd::words<Arch> bv[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) bv[v] = simd::load_words<Arch>(b + 4 * v * L);
        b += step;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const auto a = simd::broadcast_word<Arch>(row[static_cast<std::size_t>(r)] + 4 * i);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) acc[r][v] = simd::dot_bytes<Arch>(acc[r][v], a, bv[v]);
        }
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
        const auto s = simd::load<float, Arch>(reinterpret_cast<const float*>(scales + 4 * v * L));
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const simd::batch<float, Arch> mine(x[r].scale);
            simd::store(out + r * ldc + v * L, simd::to_float<Arch>(acc[r][v]) * (s * mine));
        }
    }
}

template <class F, class Arch, int R, int V>
MOX_NOINLINE void tile_int4(const packed_row<float>* x, const std::byte* b, index_t k_size,
                            const std::byte* ahead, float* out, index_t ldc) {
    constexpr index_t L = simd::lanes<float, Arch>;
    constexpr index_t step = V * 4 * L;
    constexpr index_t octets = F::padded_group / 8;
    std::array<const std::byte*, R> row;
    for (int r = 0; r < R; ++r) row[static_cast<std::size_t>(r)] = x[r].codes;
    simd::batch<float, Arch> sum[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] = simd::batch<float, Arch>(0.0f);
    }
    const index_t groups = F::groups(k_size);
    panel_prefetch<Arch, V> prefetch(ahead, groups * (octets + F::header / 4));
    for (index_t g = 0; g < groups; ++g) {
        const std::byte* const scales = b;
        // Codes of weights are unsigned, `zero` too large: sums begin with what takes that back, or it is
        // subtracted behind.
        simd::words<Arch> acc[R][V];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const simd::words<Arch> start(F::moving ? 0 : -8 * x[r].sums[g]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) acc[r][v] = start;
        }
        if (ahead) prefetch.next();
        if (F::moving && ahead) prefetch.next();
        b += F::header / 4 * step;
        for (index_t i = 0; i < octets; ++i) {
            if (ahead) prefetch.next();
            simd::words<Arch> bv[V];
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) bv[v] = simd::load_words<Arch>(b + 4 * v * L);
            b += step;
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                const std::byte* const codes = row[static_cast<std::size_t>(r)] + g * F::padded_group + 8 * i;
                const auto low = simd::broadcast_word<Arch>(codes);
                const auto high = simd::broadcast_word<Arch>(codes + 4);
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v) {
                    acc[r][v] = simd::dot_bytes<Arch>(acc[r][v], simd::low_nibbles<Arch>(bv[v]), low);
                    acc[r][v] = simd::dot_bytes<Arch>(acc[r][v], simd::high_nibbles<Arch>(bv[v]), high);
                }
            }
        }
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            const auto s = simd::load<float, Arch>(reinterpret_cast<const float*>(scales + 4 * v * L));
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) sum[r][v] = simd::fma(simd::to_float<Arch>(acc[r][v]), s, sum[r][v]);
            if constexpr (F::moving) {
                const auto zero =
                    simd::load<float, Arch>(reinterpret_cast<const float*>(scales + step + 4 * v * L));
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r) {
                    const simd::batch<float, Arch> less(-static_cast<float>(x[r].sums[g]));
                    sum[r][v] = simd::fma(less, zero, sum[r][v]);
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        const simd::batch<float, Arch> mine(x[r].scale);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) simd::store(out + r * ldc + v * L, sum[r][v] * mine);
    }
}

namespace detail {

template <class F, class Arch, int R, int V>
struct packed_tile_of;
template <class Arch, int R, int V>
struct packed_tile_of<weight::bf16, Arch, R, V> {
    static constexpr auto function = &tile_bf16<Arch, R, V>;
};
template <weight::rows A, class Arch, int R, int V>
struct packed_tile_of<weight::int8<A>, Arch, R, V> {
    static constexpr auto function = &tile_int8<Arch, R, V>;
};
template <index_t G, weight::zero Z, weight::rows A, class Arch, int R, int V>
struct packed_tile_of<weight::int4<G, Z, A>, Arch, R, V> {
    static constexpr auto function = &tile_int4<weight::int4<G, Z, A>, Arch, R, V>;
};

}  // namespace detail

/// The tiles of a format by size.
template <class F, class Arch = simd::default_arch>
struct packed_tiles {
    static constexpr int rows = static_cast<int>(packed_tile_rows<F, Arch>);
    static constexpr int vectors = static_cast<int>(panel_vectors<Arch>);

    /// Result row r goes to out + r * ldc.
    static void run(index_t r, index_t v, const packed_row<float>* x, const std::byte* b, index_t k_size,
                    const std::byte* ahead, float* out, index_t ldc) {
        table[static_cast<std::size_t>((r - 1) * vectors + v - 1)](x, b, k_size, ahead, out, ldc);
    }

private:
    using function = void (*)(const packed_row<float>*, const std::byte*, index_t, const std::byte*, float*,
                              index_t);
    template <int... I>
    static constexpr auto make(std::integer_sequence<int, I...>) {
        return std::array<function, sizeof...(I)>{
            detail::packed_tile_of<F, Arch, I / vectors + 1, I % vectors + 1>::function...};
    }
    static constexpr auto table = make(std::make_integer_sequence<int, rows * vectors>{});
};

}  // namespace mox::inline MOX_ABI::kernel
