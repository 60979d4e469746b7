#pragma once

// Rows to columns, a square of registers at a time.

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

// a0 b0 a1 b1 ... from the lower or the upper halves of two registers.
template <index_t From, class V, int... I>
MOX_INLINE V interleave(const V& a, const V& b, std::integer_sequence<int, I...>) noexcept {
    constexpr int L = sizeof...(I);
    return __builtin_shufflevector(a, b, (static_cast<int>(From) + I / 2 + (I % 2) * L)...);
}

}  // namespace detail

/// to[j][i] = from[i][j] for a square as wide as a register; rows are `stride` values apart.
template <class T, class Arch = default_arch>
MOX_INLINE void transpose_square(const T* from, index_t from_stride, T* to, index_t to_stride) noexcept {
    constexpr index_t L = lanes<T, Arch>;
    using lane_numbers = std::make_integer_sequence<int, static_cast<int>(L)>;
    using vector = typename detail::register_of<T, L>::type;
    vector rows[L], next[L];
#pragma GCC unroll 16
    for (index_t i = 0; i < L; ++i) std::memcpy(&rows[i], from + i * from_stride, sizeof(vector));
        // log2(L) perfect shuffles of the rows are the transposition.
#pragma GCC unroll 4
    for (index_t step = 1; step < L; step *= 2) {
#pragma GCC unroll 8
        for (index_t i = 0; i < L / 2; ++i) {
            next[2 * i] = detail::interleave<0>(rows[i], rows[i + L / 2], lane_numbers{});
            next[2 * i + 1] = detail::interleave<L / 2>(rows[i], rows[i + L / 2], lane_numbers{});
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
