#pragma once

// The macros of the library. A user may define MOX_CHECK_LEVEL before the first include:
//   0  no run-time checks at all (types are still checked)
//   1  shapes and values at every public call (default; costs nothing per token)
//   2  also the inside of kernels and plans (tests and debugging)
// and MOX_HUGE_PAGES: 1 (default) asks Linux for pages of 2 MB where a buffer fills them, 0 does not.

#include <cstddef>
#include <cstdint>

#include <mox/version.hpp>

#ifndef MOX_CHECK_LEVEL
#define MOX_CHECK_LEVEL 1
#endif

#ifndef MOX_HUGE_PAGES
#define MOX_HUGE_PAGES 1
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
#define MOX_ARCH_WORD avx512_bf16_vnni
#elif defined(__AVX512BF16__)
#define MOX_ARCH_WORD avx512_bf16
#elif defined(__AVX512VNNI__)
#define MOX_ARCH_WORD avx512_vnni
#else
#define MOX_ARCH_WORD avx512
#endif
#elif defined(__AVX2__) && defined(__FMA__)
#define MOX_ARCH_WORD avx2
#elif defined(__ARM_NEON) && defined(__aarch64__)
#define MOX_ARCH_WORD neon64
#else
#define MOX_ARCH_WORD baseline
#endif

// Version, instruction set, check level and the kind of pages are part of every symbol, so that translation
// units compiled with different flags can be linked into one program without mixing their kernels.
#define MOX_PASTE_IMPL(a, b, c, d, e, f) v##a##_##b##_##c##_##d##_c##e##_h##f
#define MOX_PASTE(a, b, c, d, e, f) MOX_PASTE_IMPL(a, b, c, d, e, f)
#define MOX_ABI                                                                                              \
    MOX_PASTE(MOX_VERSION_MAJOR, MOX_VERSION_MINOR, MOX_VERSION_PATCH, MOX_ARCH_WORD, MOX_CHECK_LEVEL,       \
              MOX_HUGE_PAGES)

#if defined(__GNUC__) || defined(__clang__)
#define MOX_NOINLINE __attribute__((noinline))
#define MOX_INLINE inline __attribute__((always_inline))
#define MOX_RESTRICT __restrict
#else
#define MOX_NOINLINE
#define MOX_INLINE inline
#define MOX_RESTRICT
#endif

namespace mox::inline MOX_ABI {

/// Sizes and offsets. Signed, so that differences are safe.
using index_t = std::ptrdiff_t;

/// Row numbers inside plans and token ids: 32 bits halve the traffic of index lists.
using row_t = std::int32_t;

}  // namespace mox::inline MOX_ABI
