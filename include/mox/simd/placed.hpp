#pragma once

// A value and the place of what it meets, side by side, for kernels that are bound by their loads.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <mox/simd/batch.hpp>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace mox::inline MOX_ABI::simd {

template <class T>
struct placed {
    T value;
    row_t place;
};

/// Such a pair in registers, the value in all lanes.
template <class T, class Arch = default_arch>
struct spread {
    batch<T, Arch> value;
    index_t place;
};

/// at: a placed<T>. One load brings both parts, and the value is spread from an integer register. A core that
/// loads one register of 512 bits a cycle has room for scalar loads beside it, but not for a value spread by
/// its load. Measured on the product of kernel/sparse_rows.hpp: 130 instead of 137 us. On its sums alone: 97
/// us; 106 with a scalar load for each part, 103 to 112 with a spread by the load.
template <class T, class Arch = default_arch>
MOX_INLINE spread<T, Arch> load_spread(const void* at) noexcept {
#if defined(__AVX512F__) && (defined(__GNUC__) || defined(__clang__))
    if constexpr (std::is_same_v<T, float> && lanes<T, Arch> == 16) {
        static_assert(sizeof(placed<T>) == sizeof(std::int64_t));
        std::int64_t both;
        std::memcpy(&both, at, sizeof(both));
        asm("" : "+r"(both));  // else compilers make two loads of it again
        return {batch<T, Arch>(_mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(both)))), both >> 32};
    }
#endif
    T value;
    row_t place;
    std::memcpy(&value, at, sizeof(value));
    std::memcpy(&place, static_cast<const std::byte*>(at) + offsetof(placed<T>, place), sizeof(place));
    return {batch<T, Arch>(value), place};
}

}  // namespace mox::inline MOX_ABI::simd
