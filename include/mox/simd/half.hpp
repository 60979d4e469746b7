#pragma once

// Half a register, for results that would leave the other half empty.

#include <cstring>

#include <mox/simd/arch.hpp>

namespace mox::inline MOX_ABI::simd {

/// Whether registers can be halved: half a register is itself one of an older instruction set.
template <class T, class Arch = default_arch>
inline constexpr bool has_half = lanes<T, Arch>* static_cast<index_t>(sizeof(T)) >= 32;

template <class T, class Arch = default_arch>
struct half_register {
    static_assert(has_half<T, Arch>, "mox::simd::half_register: this instruction set has no half registers");
    static constexpr index_t lanes = simd::lanes<T, Arch> / 2;
    typedef T vector __attribute__((vector_size(static_cast<std::size_t>(lanes) * sizeof(T))));
    vector v;

    static MOX_INLINE half_register load(const T* p) noexcept {
        half_register r;
        std::memcpy(&r.v, p, sizeof(vector));
        return r;
    }
    MOX_INLINE void store(T* p) const noexcept { std::memcpy(p, &v, sizeof(vector)); }
    /// sum + factor * row. The halves of two full registers under simd::fma have the same bits: with fused
    /// multiplication where the instruction set has it (xsimd's fma is one rounding exactly there).
    static MOX_INLINE half_register add_product(T factor, const half_register& row,
                                                const half_register& sum) noexcept {
        return {row.v * factor + sum.v};
    }
};

}  // namespace mox::inline MOX_ABI::simd
