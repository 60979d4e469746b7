#pragma once

// Rows to columns, a square of registers at a time.

#include <algorithm>
#include <cstring>
#include <utility>

#include <mox/simd/arch.hpp>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace mox::inline MOX_ABI::simd {

namespace detail {

// xsimd interleaves whole registers in its newer versions only.
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

// a0 b0 a1 b1 ... where a0 is a lane of 128 bits: the lower (Upper = 0) or the upper halves of a and b.
template <int Lane, int Upper, class V, int... I>
MOX_INLINE V interleave_lanes(const V& a, const V& b, std::integer_sequence<int, I...>) noexcept {
    constexpr int L = sizeof...(I);
#if defined(__AVX512F__)
    // In two steps that move whole lanes: for one, compilers take the shuffle of single values, which on Zen
    // 4 waits for the pipe that multiplies (measured between the sums of kernel/sparse_rows.hpp: 124 us; 122
    // in two steps).
    if constexpr (sizeof(V) == 64) {
        __m512 x, y;
        std::memcpy(&x, &a, sizeof(V));
        std::memcpy(&y, &b, sizeof(V));
        __m512 halves = _mm512_shuffle_f32x4(x, y, Upper ? 0xee : 0x44);
        asm("" : "+v"(halves));  // else they become one again
        halves = _mm512_shuffle_f32x4(halves, halves, 0xd8);
        V lanes;
        std::memcpy(&lanes, &halves, sizeof(V));
        return lanes;
    }
#endif
    return __builtin_shufflevector(
        a, b, (Upper * (L / 2) + I / (2 * Lane) * Lane + I % Lane + I / Lane % 2 * L)...);
}

template <int First, class V, int... I>
MOX_INLINE auto part(const V& v, std::integer_sequence<int, I...>) noexcept {
    return __builtin_shufflevector(v, v, (First + I)...);
}

}  // namespace detail

/// Rows that are turned round together. Rows a power of two apart share the sets of the first cache, and 8
/// ways hold what was fetched ahead for 8 of them. Measured on 512 x 1024 values: 41 us, 54 with 16 rows; at
/// another stride 37 and 36.
template <class T, class Arch = default_arch>
inline constexpr index_t turned_rows = std::min(lanes<T, Arch>, index_t{8});

/// Turns `Rows` rows of as many columns as a register has lanes round, a step at a time, so that a kernel can
/// put other work between the steps: load, step<0> ... step<steps - 1>, store.
template <class T, class Arch, index_t Rows>
class turning {
    static constexpr index_t L = lanes<T, Arch>;
    static constexpr index_t lane = detail::lane_values<T, L>, groups = Rows / lane;
    static_assert(groups * lane == Rows && (groups & (groups - 1)) == 0 && Rows <= L);
    using lane_numbers = std::make_integer_sequence<int, static_cast<int>(L)>;
    using vector = typename detail::register_of<T, L>::type;
    static constexpr int E = static_cast<int>(lane);
    static constexpr int log2(index_t n) { return n > 1 ? 1 + log2(n / 2) : 0; }

    vector rows_[Rows];

public:
    static constexpr int steps = log2(Rows);

    /// from: Rows rows, `stride` values apart.
    MOX_INLINE void load(const T* from, index_t stride) noexcept {
#pragma GCC unroll 16
        for (index_t i = 0; i < Rows; ++i) std::memcpy(&rows_[i], from + i * stride, sizeof(vector));
    }

    template <int Step>
    MOX_INLINE void step() noexcept {
        vector next[Rows];
        if constexpr (Step < log2(lane)) {
            // Squares as wide as a lane, in every lane of as many rows: log2 of their side perfect shuffles.
#pragma GCC unroll 16
            for (index_t q = 0; q < Rows; q += lane) {
#pragma GCC unroll 2
                for (index_t i = q; i < q + lane / 2; ++i) {
                    const vector &a = rows_[i], &b = rows_[i + lane / 2];
                    next[2 * i - q] = detail::interleave<E, 0>(a, b, lane_numbers{});
                    next[2 * i - q + 1] = detail::interleave<E, 1>(a, b, lane_numbers{});
                }
            }
        } else {
            // Then the lanes, in the same way: those of one column come to lie side by side.
#pragma GCC unroll 8
            for (index_t i = 0; i < groups / 2; ++i) {
#pragma GCC unroll 4
                for (index_t r = 0; r < lane; ++r) {
                    const vector &a = rows_[i * lane + r], &b = rows_[(i + groups / 2) * lane + r];
                    next[2 * i * lane + r] = detail::interleave_lanes<E, 0>(a, b, lane_numbers{});
                    next[(2 * i + 1) * lane + r] = detail::interleave_lanes<E, 1>(a, b, lane_numbers{});
                }
            }
        }
#pragma GCC unroll 16
        for (index_t i = 0; i < Rows; ++i) rows_[i] = next[i];
    }

    /// to[j][i] = from[i][j] for the Rows values of every column j; the columns are `stride` values apart.
    MOX_INLINE void store(T* to, index_t stride) const noexcept {
#pragma GCC unroll 8
        for (index_t q = 0; q < groups; ++q) {
#pragma GCC unroll 4
            for (index_t r = 0; r < lane; ++r)
                store_parts(to + (q * parts * lane + r) * stride, lane * stride, rows_[q * lane + r],
                            std::make_integer_sequence<int, static_cast<int>(parts)>{});
        }
    }

private:
    // A register ends with the values of so many columns one after the other.
    static constexpr index_t parts = L / Rows;

    template <int... I>
    MOX_INLINE static void store_parts(T* to, index_t stride, const vector& v,
                                       std::integer_sequence<int, I...>) noexcept {
        (store_part(to + I * stride, detail::part<I* static_cast<int>(Rows)>(
                                         v, std::make_integer_sequence<int, static_cast<int>(Rows)>{})),
         ...);
    }
    template <class Part>
    MOX_INLINE static void store_part(T* to, const Part& v) noexcept {
        std::memcpy(to, &v, sizeof(Part));
    }
};

namespace detail {

template <class T, class Arch, index_t Rows, int... Step>
MOX_INLINE void turn(const T* from, index_t from_stride, T* to, index_t to_stride,
                     std::integer_sequence<int, Step...>) noexcept {
    turning<T, Arch, Rows> rows;
    rows.load(from, from_stride);
    (rows.template step<Step>(), ...);
    rows.store(to, to_stride);
}

}  // namespace detail

/// to[j][i] = from[i][j] for a square as wide as a register.
template <class T, class Arch = default_arch>
MOX_INLINE void transpose_square(const T* from, index_t from_stride, T* to, index_t to_stride) noexcept {
    constexpr index_t rows = turned_rows<T, Arch>;
#pragma GCC unroll 2
    for (index_t i = 0; i < lanes<T, Arch>; i += rows) {
        detail::turn<T, Arch, rows>(from + i * from_stride, from_stride, to + i, to_stride,
                                    std::make_integer_sequence<int, turning<T, Arch, rows>::steps>{});
    }
}

/// columns[j * pitch + i] = rows[i][j] for as many rows as a register has lanes, `count` values of each.
template <class T, class Arch = default_arch>
MOX_INLINE void transpose_lanes(const T* rows, index_t stride, index_t count, T* columns,
                                index_t pitch = lanes<T, Arch>) noexcept {
    constexpr index_t L = lanes<T, Arch>;
    const index_t whole = count / L * L;
    for (index_t j = 0; j < whole; j += L)
        transpose_square<T, Arch>(rows + j, stride, columns + j * pitch, pitch);
    for (index_t j = whole; j < count; ++j) {
        for (index_t i = 0; i < L; ++i) columns[j * pitch + i] = rows[i * stride + j];
    }
}

/// The same for `here` rows, at most as many as there are lanes; lanes without a row are zero.
template <class T, class Arch = default_arch>
void transpose_upto(const T* rows, index_t stride, index_t here, index_t count, T* columns,
                    index_t pitch) noexcept {
    constexpr index_t L = lanes<T, Arch>;
    if (here == L) return transpose_lanes<T, Arch>(rows, stride, count, columns, pitch);
    for (index_t j = 0; j < count; ++j) {
        for (index_t i = 0; i < L; ++i) columns[j * pitch + i] = i < here ? rows[i * stride + j] : T(0);
    }
}

}  // namespace mox::inline MOX_ABI::simd
