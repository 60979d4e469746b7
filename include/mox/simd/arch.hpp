#pragma once

// Instruction sets are types. Only this folder includes xsimd; everything else says simd::.

#include <xsimd/xsimd.hpp>

#include <mox/core/config.hpp>

namespace mox::inline MOX_ABI::simd {

/// The best instruction set this translation unit is compiled for.
using default_arch = xsimd::default_arch;

/// Values in one register.
template <class T, class Arch = default_arch>
inline constexpr index_t lanes = static_cast<index_t>(xsimd::batch<T, Arch>::size);

/// Architectural vector registers: 32 with AVX-512 and on ARM64, 16 otherwise. Decides the register tile.
template <class Arch = default_arch>
inline constexpr index_t registers = (lanes<float, Arch> >= 16
#if defined(__aarch64__)
                                      || true
#endif
                                      )
                                         ? 32
                                         : 16;

}  // namespace mox::inline MOX_ABI::simd
