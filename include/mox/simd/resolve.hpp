#pragma once

// One program for several instruction sets: what this CPU can run, asked once, and the best of several
// builds of the same source. CMake's mox_add_multiarch() (cmake/mox_multiarch.cmake, installed with the
// package) compiles the source once per level and writes the choice. Nothing here needs xsimd.

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <type_traits>

#include <mox/core/config.hpp>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#define MOX_HAS_CPUID 1
#elif defined(_M_X64) || defined(_M_IX86)
#include <intrin.h>
#define MOX_HAS_CPUID 1
#else
#define MOX_HAS_CPUID 0
#endif

namespace mox::inline MOX_ABI::simd {

/// The answers of the CPU and of the operating system that the levels below look at; zeros elsewhere.
struct cpu_words {
    std::uint32_t leaf1_ecx = 0;          ///< cpuid 1
    std::uint32_t leaf7_ebx = 0;          ///< cpuid 7, subleaf 0
    std::uint32_t leaf7_ecx = 0;          ///< cpuid 7, subleaf 0
    std::uint32_t leaf7_1_eax = 0;        ///< cpuid 7, subleaf 1
    std::uint32_t leaf_80000001_ecx = 0;  ///< cpuid 0x80000001
    std::uint64_t registers_kept = 0;     ///< xgetbv 0: the registers the system keeps over a task switch
};

namespace detail {

constexpr std::uint32_t bits(std::initializer_list<int> numbers) noexcept {
    std::uint32_t all = 0;
    for (const int n : numbers) all |= std::uint32_t{1} << n;
    return all;
}
constexpr bool has(std::uint64_t word, std::uint64_t wanted) noexcept { return (word & wanted) == wanted; }

}  // namespace detail

/// Instruction sets a program can be built for, as types: a name and what the CPU must have. The flags that
/// mox_add_multiarch() compiles with allow no instruction beyond these.
namespace level {

/// What every CPU of the platform has: SSE2 on x86-64, NEON on ARM64.
struct baseline {
    static constexpr std::string_view name = "baseline";
    static constexpr bool runs_on(const cpu_words&) noexcept { return true; }
};

/// x86-64-v3: AVX2, FMA, F16C, BMI, LZCNT, MOVBE, and a system that keeps 256-bit registers.
struct avx2 {
    static constexpr std::string_view name = "avx2";
    static constexpr bool runs_on(const cpu_words& w) noexcept {
        // SSE3, SSSE3, FMA, CX16, SSE4.1, SSE4.2, MOVBE, POPCNT, OSXSAVE, AVX, F16C
        constexpr std::uint32_t leaf1 = detail::bits({0, 9, 12, 13, 19, 20, 22, 23, 27, 28, 29});
        constexpr std::uint32_t leaf7 = detail::bits({3, 5, 8});  // BMI1, AVX2, BMI2
        constexpr std::uint32_t extended = detail::bits({0, 5});  // LAHF, LZCNT
        constexpr std::uint64_t kept = detail::bits({1, 2});      // SSE and AVX
        return detail::has(w.leaf1_ecx, leaf1) && detail::has(w.leaf7_ebx, leaf7) &&
               detail::has(w.leaf_80000001_ecx, extended) && detail::has(w.registers_kept, kept);
    }
};

/// x86-64-v4: AVX-512 F, DQ, CD, BW and VL, and a system that keeps mask and 512-bit registers.
struct avx512 {
    static constexpr std::string_view name = "avx512";
    static constexpr bool runs_on(const cpu_words& w) noexcept {
        constexpr std::uint32_t leaf7 = detail::bits({16, 17, 28, 30, 31});
        constexpr std::uint64_t kept = detail::bits({5, 6, 7});
        return avx2::runs_on(w) && detail::has(w.leaf7_ebx, leaf7) && detail::has(w.registers_kept, kept);
    }
};

/// AVX-512 with the dot products of int8 (VNNI) and of bf16.
struct avx512_bf16 {
    static constexpr std::string_view name = "avx512_bf16";
    static constexpr bool runs_on(const cpu_words& w) noexcept {
        return avx512::runs_on(w) && detail::has(w.leaf7_ecx, detail::bits({11})) &&
               detail::has(w.leaf7_1_eax, detail::bits({5}));
    }
};

}  // namespace level

#if MOX_HAS_CPUID

namespace detail {

struct cpuid_answer {
    std::uint32_t eax, ebx, ecx, edx;
};

inline cpuid_answer ask(std::uint32_t leaf, std::uint32_t subleaf) noexcept {
    cpuid_answer a{};
#if defined(_MSC_VER) && !defined(__clang__)
    int words[4];
    __cpuidex(words, static_cast<int>(leaf), static_cast<int>(subleaf));
    a = {static_cast<std::uint32_t>(words[0]), static_cast<std::uint32_t>(words[1]),
         static_cast<std::uint32_t>(words[2]), static_cast<std::uint32_t>(words[3])};
#else
    __cpuid_count(leaf, subleaf, a.eax, a.ebx, a.ecx, a.edx);
#endif
    return a;
}

}  // namespace detail

#endif

/// Asks the CPU at hand.
inline cpu_words ask_cpu() noexcept {
    cpu_words w;
#if MOX_HAS_CPUID
    using detail::ask;
    // A leaf that the CPU does not know answers with those of another.
    const std::uint32_t last = ask(0, 0).eax;
    if (last >= 1) w.leaf1_ecx = ask(1, 0).ecx;
    if (last >= 7) {
        const detail::cpuid_answer a = ask(7, 0);
        w.leaf7_ebx = a.ebx;
        w.leaf7_ecx = a.ecx;
        if (a.eax >= 1) w.leaf7_1_eax = ask(7, 1).eax;
    }
    if (ask(0x80000000U, 0).eax >= 0x80000001U) w.leaf_80000001_ecx = ask(0x80000001U, 0).ecx;
    if (detail::has(w.leaf1_ecx, detail::bits({27}))) {  // OSXSAVE: xgetbv exists and means something
#if defined(_MSC_VER) && !defined(__clang__)
        w.registers_kept = _xgetbv(0);
#else
        // The instruction itself: its intrinsic would need a flag for this translation unit.
        std::uint32_t low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        w.registers_kept = std::uint64_t{high} << 32 | low;
#endif
    }
#endif
    return w;
}

/// Whether this CPU, under this operating system, runs code built for `Level`. Asked once per program.
template <class Level>
bool cpu_supports() noexcept {
    static const bool supported = Level::runs_on(ask_cpu());
    return supported;
}

}  // namespace mox::inline MOX_ABI::simd

/// In a source given to mox_add_multiarch(FUNCTION f ...), once: what f() returns where this build is chosen,
///     MOX_VARIANT(best_expert) = {MOX_VARIANT_NAME, &infer};
/// f is declared at global scope and returns a reference to a constant struct of plain function pointers and
/// constants: types of mox differ between instruction sets, and must not cross. Exceptions do cross, as
/// std::exception. The table is a constant expression, because nothing may run before the choice.
#define MOX_VARIANT(f) MOX_VARIANT_OBJECT(f, MOX_VARIANT_SUFFIX)
#define MOX_VARIANT_OBJECT(f, suffix) MOX_VARIANT_OBJECT_IMPL(f, suffix)
#define MOX_VARIANT_OBJECT_IMPL(f, suffix)                                                                   \
    extern "C" const std::remove_cvref_t<decltype(f())> mox_variant_##f##_##suffix;                          \
    constinit const std::remove_cvref_t<decltype(f())> mox_variant_##f##_##suffix

// A source outside mox_add_multiarch() is one variant, for whatever it is compiled for.
#ifndef MOX_VARIANT_SUFFIX
#define MOX_VARIANT_SUFFIX only
#endif
#define MOX_VARIANT_NAME MOX_VARIANT_STRING(MOX_VARIANT_SUFFIX)
#define MOX_VARIANT_STRING(x) MOX_VARIANT_STRING_IMPL(x)
#define MOX_VARIANT_STRING_IMPL(x) #x
