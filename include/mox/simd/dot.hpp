#pragma once

// Dot products of short numbers: pairs of bf16 added to f32, quads of bytes added to 32-bit integers. One
// instruction where the instruction set has it, else widened first; the integer results are the same.

#include <mox/simd/batch.hpp>

#if defined(__AVX512F__) || defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#endif

namespace mox::inline MOX_ABI::simd {

/// A register of 32-bit words: two bf16, four bytes or one integer each.
template <class Arch = default_arch>
using words = xsimd::batch<std::int32_t, Arch>;

template <class Arch = default_arch>
MOX_INLINE words<Arch> load_words(const void* p) noexcept {
    return words<Arch>::load_unaligned(static_cast<const std::int32_t*>(p));
}

/// The word at p in every lane.
template <class Arch = default_arch>
MOX_INLINE words<Arch> broadcast_word(const void* p) noexcept {
    std::int32_t w;
    std::memcpy(&w, p, sizeof w);
    return words<Arch>(w);
}

template <class Arch>
MOX_INLINE batch<float, Arch> to_float(const words<Arch>& v) noexcept {
    return xsimd::to_float(v);
}

/// Asks for the cache line at p for the second cache level; p need not be valid memory.
MOX_INLINE void prefetch_far(const void* p) noexcept {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(p, 0, 2);
#else
    (void)p;
#endif
}

/// Whether the hardware multiplies pairs of bf16 for this register. The instruction takes denormal inputs as
/// zero.
template <class Arch = default_arch>
inline constexpr bool has_bf16_dot =
#if defined(__AVX512BF16__)
    lanes<float, Arch> == 16;
#else
    false;
#endif

/// Whether the hardware multiplies quads of unsigned and signed bytes for this register.
template <class Arch = default_arch>
inline constexpr bool has_byte_dot =
#if defined(__AVX512VNNI__)
    lanes<float, Arch> == 16;
#elif defined(__AVXVNNI__)
    lanes<float, Arch> == 8;
#else
        false;
#endif

/// acc + a.low b.low + a.high b.high in each lane; a and b hold pairs of bf16.
template <class Arch>
MOX_INLINE batch<float, Arch> dot_bf16(const batch<float, Arch>& acc, const words<Arch>& a,
                                       const words<Arch>& b) noexcept {
#if defined(__AVX512BF16__)
    if constexpr (has_bf16_dot<Arch>) {
        return _mm512_dpbf16_ps(acc, (__m512bh)(__m512i)a, (__m512bh)(__m512i)b);
    }
#endif
    const words<Arch> high(static_cast<std::int32_t>(0xffff0000u));
    const auto float_of = [](const words<Arch>& v) {
        batch<float, Arch> f;
        std::memcpy(&f, &v, sizeof f);
        return f;
    };
    const batch<float, Arch> low_sum = simd::fma(float_of(a << 16), float_of(b << 16), acc);
    return simd::fma(float_of(a & high), float_of(b & high), low_sum);
}

namespace detail {

// In each 32-bit lane the sum of the two products of its signed 16-bit halves.
template <class Arch>
MOX_INLINE words<Arch> dot_halves(const words<Arch>& a, const words<Arch>& b) noexcept {
    [[maybe_unused]] constexpr index_t L = lanes<std::int32_t, Arch>;
#if defined(__AVX512BW__)
    if constexpr (L == 16) return _mm512_madd_epi16(a, b);
#endif
#if defined(__AVX2__)
    if constexpr (L == 8) return _mm256_madd_epi16(a, b);
#endif
#if defined(__SSE2__)
    if constexpr (L == 4) return _mm_madd_epi16(a, b);
#endif
    return ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
}

}  // namespace detail

/// acc + the sum of four products in each lane; a holds unsigned bytes, b signed ones.
template <class Arch>
MOX_INLINE words<Arch> dot_bytes(const words<Arch>& acc, const words<Arch>& a,
                                 const words<Arch>& b) noexcept {
#if defined(__AVX512VNNI__)
    if constexpr (has_byte_dot<Arch>) {
        // Spelled out: with the intrinsic GCC 12 copies accumulators to memory and back around every product
        // (measured in a 6 x 64 tile: 45 % instead of 90 % of the peak).
        __m512i sum = acc;
        const __m512i x = a, w = b;
        asm("vpdpbusd {%2, %1, %0|%0, %1, %2}" : "+v"(sum) : "v"(x), "v"(w));
        return sum;
    }
#elif defined(__AVXVNNI__)
    if constexpr (has_byte_dot<Arch>) return _mm256_dpbusd_avx_epi32(acc, a, b);
#endif
    // Bytes 0 and 2, then 1 and 3, as 16-bit halves: the products of two of them fit the madd instruction.
    const words<Arch> even_mask(0x00ff00ff);
    const auto signed_byte = [](const words<Arch>& v, int up) {
        // Sign-extends the low byte of each half: left by 8 inside the half, then arithmetic right by 8.
        const words<Arch> top = up ? v : (v & words<Arch>(0x00ff00ff)) << 8;
        const words<Arch> low = ((top << 16) >> 24) & words<Arch>(0x0000ffff);
        return ((top >> 24) << 16) | low;
    };
    const words<Arch> a_even = a & even_mask;
    const words<Arch> a_odd = (a >> 8) & even_mask;
    return acc + detail::dot_halves<Arch>(a_even, signed_byte(b, 0)) +
           detail::dot_halves<Arch>(a_odd, signed_byte(b, 1));
}

/// The low nibbles of all bytes, and the high ones.
template <class Arch>
MOX_INLINE words<Arch> low_nibbles(const words<Arch>& v) noexcept {
    return v & words<Arch>(0x0f0f0f0f);
}
template <class Arch>
MOX_INLINE words<Arch> high_nibbles(const words<Arch>& v) noexcept {
    return (v >> 4) & words<Arch>(0x0f0f0f0f);
}

}  // namespace mox::inline MOX_ABI::simd
