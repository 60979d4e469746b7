#pragma once

// The values of a row that are not zero, moved together.

#include <cstdint>
#include <cstring>
#include <type_traits>

#include <mox/simd/batch.hpp>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace mox::inline MOX_ABI::simd {

namespace detail {

// Either zero, by its bits: NaN is a value, and the processor need not compare numbers.
template <class T>
MOX_INLINE bool is_zero(T value) noexcept {
    std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t> bits;
    static_assert(sizeof(bits) == sizeof(T));
    std::memcpy(&bits, &value, sizeof(T));
    return (bits << 1) == 0;
}

}  // namespace detail

/// Appends those of `count` values that are not zero, and for value i the number place + i * step. Returns
/// how many there were; up to a register's lanes behind them may be written.
template <class T, class Arch = default_arch>
MOX_INLINE index_t compress_non_zero(const T* from, index_t count, row_t place, row_t step, T* values,
                                     row_t* places) noexcept {
    index_t n = 0, i = 0;
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float> && lanes<T, Arch> == 16) {
        const __m512i steps = _mm512_mullo_epi32(
            _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32(step));
        for (; i + 16 <= count; i += 16) {
            const __m512 v = _mm512_loadu_ps(from + i);
            const __mmask16 kept =
                _mm512_test_epi32_mask(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff));
            const __m512i at =
                _mm512_add_epi32(steps, _mm512_set1_epi32(place + static_cast<row_t>(i) * step));
            _mm512_storeu_ps(values + n, _mm512_maskz_compress_ps(kept, v));
            _mm512_storeu_si512(places + n, _mm512_maskz_compress_epi32(kept, at));
            n += __builtin_popcount(kept);
        }
    }
#endif
    // Every value is written, the place moves on behind those that count: no branch to miss.
    for (; i < count; ++i) {
        values[n] = from[i];
        places[n] = place + static_cast<row_t>(i) * step;
        n += detail::is_zero(from[i]) ? 0 : 1;
    }
    return n;
}

}  // namespace mox::inline MOX_ABI::simd
