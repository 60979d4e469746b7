#pragma once

// Half a register, for results that would leave the other half empty.

#include <mox/simd/batch.hpp>

namespace mox::inline MOX_ABI::simd {

/// Whether half a register is worth having: with AVX-512, where it is a whole one of AVX2 and as many fused
/// multiply-adds of it run at a time as of whole ones, or twice as many.
template <class T, class Arch = default_arch>
inline constexpr bool has_half = lanes<T, Arch>* static_cast<index_t>(sizeof(T)) == 64;

template <class T, class Arch = default_arch>
struct half_register;

#if defined(__AVX512F__)

template <class T, class Arch>
struct half_register {
    static_assert(has_half<T, Arch>, "mox::simd::half_register: this instruction set has no half registers");
    using batch = xsimd::batch<T, xsimd::fma3<xsimd::avx2>>;
    static constexpr index_t lanes = simd::lanes<T, Arch> / 2;

    batch v = batch(T(0));

    static MOX_INLINE half_register load(const T* p) noexcept { return {batch::load_unaligned(p)}; }
    MOX_INLINE void store(T* p) const noexcept { v.store_unaligned(p); }
    /// sum + factor * row with one rounding, as simd::fma has.
    static MOX_INLINE half_register add_product(T factor, const half_register& row,
                                                const half_register& sum) noexcept {
        return {xsimd::fma(batch(factor), row.v, sum.v)};
    }
};

#endif

}  // namespace mox::inline MOX_ABI::simd
