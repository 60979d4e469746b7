#pragma once

// Rows to columns, a square of registers at a time.

#include <algorithm>
#include <cstring>
#include <utility>

#include <mox/simd/arch.hpp>

namespace mox::inline MOX_ABI::simd {

namespace detail {

// Registers as both compilers spell them: xsimd interleaves whole registers in its newer versions only.
template <class T, index_t L>
struct register_of {
    typedef T type __attribute__((vector_size(static_cast<std::size_t>(L) * sizeof(T))));
};

// Both compilers and all instruction sets have fast shuffles inside lanes of 128 bits and of whole such
// lanes; a shuffle of single values across lanes costs Zen 4 half as much again.
template <class T, index_t L>
inline constexpr index_t lane_values = std::min(L, index_t{16} / static_cast<index_t>(sizeof(T)));

// In every lane: a0 b0 a1 b1 ... from the lower (Upper = 0) or the upper halves of the lanes of a and b.
template <int Lane, int Upper, class V, int... I>
MOX_INLINE V interleave(const V& a, const V& b, std::integer_sequence<int, I...>) noexcept {
    constexpr int L = sizeof...(I);
    return __builtin_shufflevector(a, b,
                                   (I / Lane * Lane + Upper * (Lane / 2) + I % Lane / 2 + (I % 2) * L)...);
}

// The even (Odd = 0) or the odd lanes of a, then those of b.
template <int Lane, int Odd, class V, int... I>
MOX_INLINE V every_other(const V& a, const V& b, std::integer_sequence<int, I...>) noexcept {
    return __builtin_shufflevector(a, b, ((2 * (I / Lane) + Odd) * Lane + I % Lane)...);
}

}  // namespace detail

/// to[j][i] = from[i][j] for a square as wide as a register; rows are `stride` values apart.
template <class T, class Arch = default_arch>
MOX_INLINE void transpose_square(const T* from, index_t from_stride, T* to, index_t to_stride) noexcept {
    constexpr index_t L = lanes<T, Arch>;
    using lane_numbers = std::make_integer_sequence<int, static_cast<int>(L)>;
    using vector = typename detail::register_of<T, L>::type;
    constexpr index_t lane = detail::lane_values<T, L>, lane_count = L / lane;
    constexpr int E = static_cast<int>(lane);
    vector rows[L], next[L];
#pragma GCC unroll 16
    for (index_t i = 0; i < L; ++i) std::memcpy(&rows[i], from + i * from_stride, sizeof(vector));
        // Squares as wide as a lane, in every lane of as many rows: log2 of their side perfect shuffles.
#pragma GCC unroll 4
    for (index_t step = 1; step < lane; step *= 2) {
#pragma GCC unroll 16
        for (index_t q = 0; q < L; q += lane) {
#pragma GCC unroll 2
            for (index_t i = 0; i < lane / 2; ++i) {
                next[q + 2 * i] =
                    detail::interleave<E, 0>(rows[q + i], rows[q + i + lane / 2], lane_numbers{});
                next[q + 2 * i + 1] =
                    detail::interleave<E, 1>(rows[q + i], rows[q + i + lane / 2], lane_numbers{});
            }
        }
#pragma GCC unroll 16
        for (index_t i = 0; i < L; ++i) rows[i] = next[i];
    }
    // Then the lanes: row q * lane + r holds in lane g what belongs to row g * lane + r, lane q.
#pragma GCC unroll 4
    for (index_t step = 1; step < lane_count; step *= 2) {
#pragma GCC unroll 8
        for (index_t i = 0; i < lane_count / 2; ++i) {
#pragma GCC unroll 4
            for (index_t r = 0; r < lane; ++r) {
                const vector &a = rows[2 * i * lane + r], &b = rows[(2 * i + 1) * lane + r];
                next[i * lane + r] = detail::every_other<E, 0>(a, b, lane_numbers{});
                next[(i + lane_count / 2) * lane + r] = detail::every_other<E, 1>(a, b, lane_numbers{});
            }
        }
#pragma GCC unroll 16
        for (index_t i = 0; i < L; ++i) rows[i] = next[i];
    }
#pragma GCC unroll 16
    for (index_t i = 0; i < L; ++i) std::memcpy(to + i * to_stride, &rows[i], sizeof(vector));
}

/// columns[j * lanes + i] = rows[i][j] for as many rows as a register has lanes, `count` values of each.
template <class T, class Arch = default_arch>
MOX_INLINE void transpose_lanes(const T* rows, index_t stride, index_t count, T* columns) noexcept {
    constexpr index_t L = lanes<T, Arch>;
    index_t j = 0;
    for (; j + L <= count; j += L) transpose_square<T, Arch>(rows + j, stride, columns + j * L, L);
    for (; j < count; ++j) {
        for (index_t i = 0; i < L; ++i) columns[j * L + i] = rows[i * stride + j];
    }
}

}  // namespace mox::inline MOX_ABI::simd
