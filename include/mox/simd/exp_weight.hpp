#pragma once

// The exponential of softmax: arguments are at most zero, because the maximum of the row was subtracted.

#include <cstdint>
#include <cstring>
#include <numbers>
#include <type_traits>

#include <mox/simd/batch.hpp>

namespace mox::inline MOX_ABI::simd {

/// The unit in which weight() takes its argument, as a factor on natural logarithms: float counts in powers
/// of two, so that the factor disappears in the scale of the scores; double counts in powers of e.
template <class T>
inline constexpr T weight_unit = std::is_same_v<T, float> ? T(std::numbers::log2e) : T(1);

namespace detail {

template <index_t L>
struct bits_of {
    typedef std::uint32_t type __attribute__((vector_size(static_cast<std::size_t>(L) * 4)));
};

}  // namespace detail

/// 2^x for x <= 0: |relative error| < 2.0e-7 (3 units in the last place) down to x = -126, 0 below -126.5 and
/// for -infinity, NaN for every NaN. (It holds for positive x too, up to 127.)
/// The whole part of x becomes the exponent, the rest, in [-1/2, 1/2], a polynomial of degree 5: eleven
/// operations, of which six need the multipliers, where the general exponential needs about twice as many.
template <class Arch>
MOX_INLINE batch<float, Arch> weight(const batch<float, Arch>& x) noexcept {
    using values = batch<float, Arch>;
    using bits = typename detail::bits_of<lanes<float, Arch>>::type;
    static_assert(sizeof(values) == sizeof(bits));
    // The order of the arguments matters: where one is NaN, x86 returns the second.
    const values clamped = simd::max(values(-127.0f), x);
    // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits, here with the bias of the
    // exponent, so that a shift makes a power of two of it: 0 for -127.
    const values whole = clamped + values(12582912.0f + 127.0f);
    const values rest = clamped - (whole - values(12582912.0f + 127.0f));
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

/// e^x: double is there for checking and takes xsimd's exponential.
template <class Arch>
MOX_INLINE batch<double, Arch> weight(const batch<double, Arch>& x) noexcept {
    return simd::exp(x);
}

}  // namespace mox::inline MOX_ABI::simd
