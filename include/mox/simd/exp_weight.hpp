#pragma once

// The exponential of softmax: arguments are at most zero, because the maximum of the row was subtracted.

#include <bit>
#include <cstdint>
#include <cstring>
#include <numbers>
#include <type_traits>

#include <mox/simd/batch.hpp>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace mox::inline MOX_ABI::simd {

/// The unit in which weight() takes its argument, as a factor on natural logarithms: float counts in powers
/// of two, so that the factor disappears in the scale of the scores; double counts in powers of e.
template <class T>
inline constexpr T weight_unit = std::is_same_v<T, float> ? T(std::numbers::log2e) : T(1);

namespace detail {

// 1.5 * 2^23: a sum with it is rounded to a whole number, which stands in its low bits.
inline constexpr float rounder = 12582912.0f;

#if defined(__AVX512F__)

// 2^(i/32) in float, i << 18 subtracted from its bits: a whole number w of 32nds, as w << 18 added to entry
// w mod 32, makes 2^(w/32) of it.
struct alignas(64) power_table {
    std::uint32_t bits[32];
    constexpr power_table() : bits() {
        double power = 1;
        for (std::uint32_t i = 0; i < 32; ++i) {
            bits[i] = std::bit_cast<std::uint32_t>(static_cast<float>(power)) - (i << 18);
            power *= 1.0218971486541166;  // 2^(1/32)
        }
    }
};
inline constexpr power_table powers;

// Rounds x unit to a 32nd, looks the power of that up in two registers, and multiplies by a polynomial of
// degree 2 for the rest, in [-1/64, 1/64]. A Zen 4 core has two pipes for registers of this width, one that
// multiplies and compares and one that adds and shifts: of ten operations (beside the addition of whole
// numbers, for which both have room) each gets five, where the polynomial of degree 5 gives them six and
// five.
MOX_INLINE __m512 power_of_two(__m512 x, float unit) noexcept {
    const __m512 shift = _mm512_set1_ps(rounder / 32), units = _mm512_set1_ps(unit);
    const __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f / unit), _CMP_NLT_UQ);
    const __m512 sum = _mm512_fmadd_ps(x, units, shift);
    const __m512 near = _mm512_sub_ps(sum, shift);
    const __m512 rest = unit == 1.0f ? _mm512_sub_ps(x, near) : _mm512_fmsub_ps(x, units, near);
    const __m512i whole = _mm512_castps_si512(sum);
    const __m512i entry =
        _mm512_permutex2var_epi32(_mm512_load_si512(powers.bits), whole, _mm512_load_si512(powers.bits + 16));
    const __m512 power =
        _mm512_castsi512_ps(_mm512_add_epi32(entry, _mm512_maskz_slli_epi32(0xffff, whole, 18)));
    // Minimax for the relative error (5.4e-8), the constant fixed to 1.
    const __m512 slope = _mm512_fmadd_ps(rest, _mm512_set1_ps(0.24022703f), _mm512_set1_ps(0.6931573f));
    return _mm512_maskz_fmadd_ps(above, _mm512_mul_ps(power, rest), slope, power);
}

#endif

}  // namespace detail

/// 2^(x unit) for x unit <= 0: |relative error| < 2.0e-7 (3 units in the last place) of the product as a real
/// number, down to x unit = -126; 0 below -126.5 and for -infinity, a denormal number or 0 between; NaN for
/// every NaN. (It holds for positive products too, up to 127.) Where there is a fused operation the product
/// is never rounded, so that weight(x, log2(e)) is e^x to 3 units as well, but for the rounding of log2(e):
/// 2e-8 |x|. The unit is a positive constant.
/// The whole part becomes the exponent, the rest, in [-1/2, 1/2], a polynomial of degree 5: eleven
/// operations, of which six need the multipliers, where the general exponential needs about twice as many.
/// AVX-512 takes a table and a shorter polynomial.
template <class Arch>
MOX_INLINE batch<float, Arch> weight(const batch<float, Arch>& x, float unit = 1.0f) noexcept {
    using values = batch<float, Arch>;
    using bits = typename detail::register_of<std::uint32_t, lanes<float, Arch>>::type;
    static_assert(sizeof(values) == sizeof(bits));
#if defined(__AVX512F__)
    if constexpr (sizeof(values) == 64) return detail::power_of_two(x, unit);
#endif
    // The order of the arguments matters: where one is NaN, x86 returns the second.
    const values clamped = simd::max(values(-127.0f / unit), x);
    // The sum carries the bias of the exponent, so that a shift makes a power of two of it: 0 for -127.
    const values shift(detail::rounder + 127.0f);
    // Additions where there is nothing to multiply: they have pipes of their own (measured: 0.88 of the
    // time).
    const bool plain = unit == 1.0f;
    const values whole = plain ? clamped + shift : simd::fma(clamped, values(unit), shift);
    const values rest = plain ? clamped - (whole - shift) : simd::fma(clamped, values(unit), shift - whole);
    bits exponent;
    std::memcpy(&exponent, &whole, sizeof exponent);
    exponent <<= 23;
    values power;
    std::memcpy(static_cast<void*>(&power), &exponent, sizeof exponent);
    // Minimax for the relative error on [-1/2, 1/2], the constant fixed to 1.
    values p = simd::fma(rest, values(0.0013264727f), values(0.009671513f));
    p = simd::fma(p, rest, values(0.055507336f));
    p = simd::fma(p, rest, values(0.24022242f));
    p = simd::fma(p, rest, values(0.69314698f));
    p = simd::fma(p, rest, values(1.0f));
    return p * power;
}

/// e^(x unit): double is there for checking and takes xsimd's exponential.
template <class Arch>
MOX_INLINE batch<double, Arch> weight(const batch<double, Arch>& x, double unit = 1.0) noexcept {
    return simd::exp(x * batch<double, Arch>(unit));
}

}  // namespace mox::inline MOX_ABI::simd
