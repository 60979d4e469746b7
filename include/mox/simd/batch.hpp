#pragma once

// A thin adapter over xsimd 8.1 ... newest: the names that changed between versions live here only.

#include <algorithm>
#include <cstring>
#include <type_traits>

#include <mox/simd/arch.hpp>

namespace mox::inline MOX_ABI::simd {

template <class T, class Arch = default_arch>
using batch = xsimd::batch<T, Arch>;

using xsimd::abs;
using xsimd::exp;
using xsimd::max;
using xsimd::min;
using xsimd::select;
using xsimd::sqrt;
using xsimd::tanh;

template <class T, class Arch = default_arch>
MOX_INLINE batch<T, Arch> load(const T* p) noexcept {
    return batch<T, Arch>::load_unaligned(p);
}

template <class T, class Arch>
MOX_INLINE void store(T* p, const batch<T, Arch>& v) noexcept {
    v.store_unaligned(p);
}

/// Asks for the cache line of p, to be read from the second cache level soon. Any address is allowed. Into
/// the first level, a panel in advance would push out the rows in use (measured: 0.62 instead of 0.85 of the
/// peak).
MOX_INLINE void prefetch(const void* p) noexcept {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(p, 0, 2);
#else
    (void)p;
#endif
}

/// Asks for the cache lines of [p, p + bytes), to be written soon.
MOX_INLINE void prefetch_to_write(const void* p, index_t bytes) noexcept {
#if defined(__GNUC__) || defined(__clang__)
    for (index_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(p) + i, 1, 3);
#else
    (void)p;
    (void)bytes;
#endif
}

/// The first `count` values (fewer than a register), `fill` behind them. Never reads past the end.
template <class T, class Arch = default_arch>
MOX_INLINE batch<T, Arch> load_first(const T* p, index_t count, T fill = T(0)) noexcept {
#if defined(__AVX512F__)
    // Measured: softmax of 8 columns takes 0.43 of the time that it takes through memory.
    if constexpr (sizeof(batch<T, Arch>) == 64 && std::is_same_v<T, float>) {
        return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), static_cast<__mmask16>((1U << count) - 1), p);
    } else if constexpr (sizeof(batch<T, Arch>) == 64 && std::is_same_v<T, double>) {
        return _mm512_mask_loadu_pd(_mm512_set1_pd(fill), static_cast<__mmask8>((1U << count) - 1), p);
    } else
#endif
#if defined(__AVX2__)
        if constexpr (sizeof(batch<T, Arch>) == 32 && std::is_same_v<T, float>) {
        const __m256i taken = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                                                 _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        return _mm256_blendv_ps(_mm256_set1_ps(fill), _mm256_maskload_ps(p, taken),
                                _mm256_castsi256_ps(taken));
    } else
#endif
    {
        alignas(64) T padded[static_cast<std::size_t>(lanes<T, Arch>)];
        batch<T, Arch>(fill).store_aligned(padded);
        for (index_t i = 0; i < count; ++i) padded[i] = p[i];
        return batch<T, Arch>::load_aligned(padded);
    }
}

/// Writes the first `count` values only.
template <class T, class Arch>
MOX_INLINE void store_first(T* p, const batch<T, Arch>& v, index_t count) noexcept {
#if defined(__AVX512F__)
    if constexpr (sizeof(batch<T, Arch>) == 64 && std::is_same_v<T, float>) {
        _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1U << count) - 1), v);
    } else if constexpr (sizeof(batch<T, Arch>) == 64 && std::is_same_v<T, double>) {
        _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1U << count) - 1), v);
    } else
#endif
    {
        alignas(64) T padded[static_cast<std::size_t>(lanes<T, Arch>)];
        v.store_aligned(padded);
        for (index_t i = 0; i < count; ++i) p[i] = padded[i];
    }
}

template <class T, class Arch>
MOX_INLINE batch<T, Arch> fma(const batch<T, Arch>& a, const batch<T, Arch>& b,
                              const batch<T, Arch>& c) noexcept {
#if defined(__AVX512F__)
    // xsimd 8 has no fused operation here: GCC makes one of its product and sum from -O2 on, Clang never does
    // (measured: attention takes 1.25 times as long).
    if constexpr (sizeof(batch<T, Arch>) == 64 && std::is_same_v<T, float>) {
        return _mm512_fmadd_ps(a, b, c);
    } else if constexpr (sizeof(batch<T, Arch>) == 64 && std::is_same_v<T, double>) {
        return _mm512_fmadd_pd(a, b, c);
    } else
#endif
        return xsimd::fma(a, b, c);
}

template <class T, class Arch>
MOX_INLINE T reduce_add(const batch<T, Arch>& v) noexcept {
#if XSIMD_VERSION_MAJOR >= 9
    return xsimd::reduce_add(v);
#else
    return xsimd::hadd(v);
#endif
}

/// The largest value; any where one of them is NaN.
template <class T, class Arch>
MOX_INLINE T reduce_max(const batch<T, Arch>& v) noexcept {
#if defined(__AVX512F__)
    // The scalars, one after the other, waited for each other: 17 ns of the 250 of a softmax row of 1024.
    if constexpr (sizeof(batch<T, Arch>) == 64 && std::is_same_v<T, float>) {
        const __m512 a = _mm512_maskz_shuffle_f32x4(0xffff, v, v, 0x4e);
        const batch<T, Arch> halves = simd::max(v, batch<T, Arch>(a));
        const __m512 b = _mm512_maskz_shuffle_f32x4(0xffff, halves, halves, 0xb1);
        const batch<T, Arch> quarters = simd::max(halves, batch<T, Arch>(b));
        const __m512 c = _mm512_maskz_permute_ps(0xffff, quarters, 0x4e);
        const batch<T, Arch> pairs = simd::max(quarters, batch<T, Arch>(c));
        const __m512 d = _mm512_maskz_permute_ps(0xffff, pairs, 0xb1);
        return _mm512_cvtss_f32(simd::max(pairs, batch<T, Arch>(d)));
    }
#endif
    alignas(64) T values[static_cast<std::size_t>(lanes<T, Arch>)];
    v.store_aligned(values);
    for (index_t half = lanes<T, Arch> / 2; half > 0; half /= 2) {
        for (index_t i = 0; i < half; ++i) {
            values[i] = values[i + half] > values[i] ? values[i + half] : values[i];
        }
    }
    return values[0];
}

/// Calls body(offset, count) for [0, size) in register-wide steps; count < lanes only in the last call.
template <class T, class Arch = default_arch, class Body>
MOX_INLINE void for_each(index_t size, Body&& body) {
    constexpr index_t step = lanes<T, Arch>;
    index_t i = 0;
    for (; i + step <= size; i += step) body(i, step);
    if (i < size) body(i, size - i);
}

/// Load and store that take the count of for_each: full registers take the short path.
template <class T, class Arch = default_arch>
MOX_INLINE batch<T, Arch> load_upto(const T* p, index_t count) noexcept {
    return count == lanes<T, Arch> ? load<T, Arch>(p) : load_first<T, Arch>(p, count);
}

template <class T, class Arch>
MOX_INLINE void store_upto(T* p, const batch<T, Arch>& v, index_t count) noexcept {
    if (count == lanes<T, Arch>) {
        simd::store(p, v);
    } else {
        simd::store_first(p, v, count);
    }
}

}  // namespace mox::inline MOX_ABI::simd
