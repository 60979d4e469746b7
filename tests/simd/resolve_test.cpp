#include <mox/simd/resolve.hpp>

#include <cstdlib>
#include <string>
#include <type_traits>

#include "../support/catch.hpp"

using namespace mox;
namespace level = mox::simd::level;

namespace {

// What a Zen 4 under Linux answers.
constexpr simd::cpu_words zen4{0x7ef8320b, 0xf1bf97a9, 0x00405fce, 0x00000020, 0x75c237ff, 0xe7};

struct levels {
    bool avx2, avx512, avx512_bf16;
    bool operator==(const levels&) const = default;
};

constexpr levels of(const simd::cpu_words& w) {
    return {level::avx2::runs_on(w), level::avx512::runs_on(w), level::avx512_bf16::runs_on(w)};
}

struct two {
    const char* name;
    int (*twice)(int);
};

}  // namespace

// Declared at global scope, like every function that mox_add_multiarch writes.
static const two& pick();
MOX_VARIANT(pick) = {MOX_VARIANT_NAME, [](int x) { return 2 * x; }};
static const two& pick() { return mox_variant_pick_only; }

TEST_CASE("resolve: each level asks for everything its flags allow", "[simd][resolve]") {
    static_assert(of(zen4) == levels{true, true, true});
    static_assert(of({}) == levels{false, false, false});
    static_assert(level::baseline::runs_on({}));

    auto w = zen4;
    w.leaf7_1_eax = 0;  // without bf16, as Ice Lake
    CHECK(of(w) == levels{true, true, false});
    w = zen4;
    w.leaf7_ecx &= ~(1U << 11);  // without VNNI
    CHECK(of(w) == levels{true, true, false});
    w = zen4;
    w.leaf7_ebx &= ~(1U << 31);  // without AVX-512 VL, as Knights Landing
    CHECK(of(w) == levels{true, false, false});
    w = zen4;
    w.leaf7_ebx &= ~(1U << 5);  // AVX without AVX2, as Sandy Bridge
    CHECK(of(w) == levels{false, false, false});
    w = zen4;
    w.leaf1_ecx &= ~(1U << 12);  // AVX2 without FMA, as some VIA
    CHECK(of(w) == levels{false, false, false});
    w = zen4;
    w.leaf_80000001_ecx = 0;  // without LZCNT, which would run as another instruction
    CHECK(of(w) == levels{false, false, false});
}

TEST_CASE("resolve: the system must keep the registers", "[simd][resolve]") {
    auto w = zen4;
    w.registers_kept = 0x07;  // SSE and AVX, no AVX-512
    CHECK(of(w) == levels{true, false, false});
    w.registers_kept = 0x67;  // the upper sixteen 512-bit registers are lost
    CHECK(of(w) == levels{true, false, false});
    w.registers_kept = 0x03;
    CHECK(of(w) == levels{false, false, false});
    w.leaf1_ecx &= ~(1U << 27);  // a system that does not know xsave at all
    w.registers_kept = 0;
    CHECK(of(w) == levels{false, false, false});
}

TEST_CASE("resolve: this CPU runs what these tests are compiled for", "[simd][resolve]") {
    CHECK(simd::cpu_supports<level::baseline>());
#if defined(__AVX2__) && defined(__FMA__)
    CHECK(simd::cpu_supports<level::avx2>());
#endif
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
    CHECK(simd::cpu_supports<level::avx512>());
#endif
#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
    CHECK(simd::cpu_supports<level::avx512_bf16>());
#endif
    // A better level has all that a lesser one has.
    CHECK((!simd::cpu_supports<level::avx512_bf16>() || simd::cpu_supports<level::avx512>()));
    CHECK((!simd::cpu_supports<level::avx512>() || simd::cpu_supports<level::avx2>()));
}

#if defined(__x86_64__) && defined(__GNUC__)
TEST_CASE("resolve: the compiler's own answer is the same", "[simd][resolve]") {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd") &&
                        __builtin_cpu_supports("avx512vl");
    CHECK(simd::cpu_supports<level::avx2>() == avx2);
    CHECK(simd::cpu_supports<level::avx512>() == avx512);
}
#endif

TEST_CASE("resolve: a source alone is one variant", "[simd][resolve]") {
    CHECK(std::string(pick().name) == "only");
    CHECK(pick().twice(21) == 42);
}
