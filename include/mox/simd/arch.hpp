#pragma once

// Instruction sets are types. Only this folder includes xsimd; everything else says simd::.

#include <cstddef>

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

namespace detail {

/// A register as both compilers spell it, for what xsimd says differently from version to version or not at
/// all.
template <class T, index_t L>
struct register_of {
    typedef T type __attribute__((vector_size(static_cast<std::size_t>(L) * sizeof(T))));
};

}  // namespace detail

}  // namespace mox::inline MOX_ABI::simd
