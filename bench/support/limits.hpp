#pragma once

// What the machine can do at most, measured in this process between the rows that are compared with it.
// Every function does one burst and returns the operations done or the bytes moved; 0 where the instruction
// set this program is compiled for has no such operation.

#include <cstdint>

#include <mox/core/buffer.hpp>
#include <mox/simd/batch.hpp>
#include <mox/simd/dot.hpp>

#if defined(__AVX512BF16__) || defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

namespace bench {

/// Fused multiply-adds with enough independent chains to fill the pipelines: the limit of f32 products.
inline double fma_burst() {
    using batch = mox::simd::batch<float>;
    constexpr int chains = mox::simd::registers<> == 32 ? 20 : 12;
    constexpr int steps = 20000;
    batch acc[chains];
    for (int i = 0; i < chains; ++i) acc[i] = batch(static_cast<float>(i));
    // Values that neither the compiler nor denormals can do anything with.
    float x = 0.999f, y = 0.001f;
    asm volatile("" : "+m"(x), "+m"(y));
    const batch a(x), b(y);
    for (int s = 0; s < steps; ++s) {
#pragma GCC unroll 20
        for (int i = 0; i < chains; ++i) acc[i] = mox::simd::fma(acc[i], a, b);
    }
    float sink = 0;
    for (const batch& v : acc) sink += mox::simd::reduce_add(v);
    asm volatile("" : : "m"(sink));
    return 2.0 * chains * steps * static_cast<double>(mox::simd::lanes<float>);
}

/// Pairs of bf16 multiplied and added to f32.
inline double bf16_burst() {
#if defined(__AVX512BF16__)
    constexpr int chains = 20, steps = 20000;
    __m512 acc[chains];
    for (int i = 0; i < chains; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));
    float x = 0.25f, y = 0.5f;
    asm volatile("" : "+m"(x), "+m"(y));
    const __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(x), _mm512_set1_ps(x));
    const __m512bh b = _mm512_cvtne2ps_pbh(_mm512_set1_ps(y), _mm512_set1_ps(y));
    for (int s = 0; s < steps; ++s) {
#pragma GCC unroll 20
        for (int i = 0; i < chains; ++i) acc[i] = _mm512_dpbf16_ps(acc[i], a, b);
    }
    float sink = 0;
    for (const __m512& v : acc) sink += _mm512_reduce_add_ps(v);
    asm volatile("" : : "m"(sink));
    return 2.0 * chains * steps * 32;
#else
    return 0;
#endif
}

/// Groups of four products of unsigned and signed bytes added to 32-bit integers.
inline double int8_burst() {
#if defined(__AVX512VNNI__)
    // mox's own step: with the intrinsic GCC 12 copies the sums around it and stays at 70 % of the peak.
    using words = mox::simd::words<>;
    constexpr int chains = 20, steps = 20000;
    words acc[chains];
    for (int i = 0; i < chains; ++i) acc[i] = words(i);
    int x = 0x01020304, y = 0x04030201;
    asm volatile("" : "+m"(x), "+m"(y));
    const words a(x), b(y);
    for (int s = 0; s < steps; ++s) {
#pragma GCC unroll 20
        for (int i = 0; i < chains; ++i) acc[i] = mox::simd::dot_bytes(acc[i], a, b);
    }
    words sink(0);
    for (const words& v : acc) sink = sink + v;
    asm volatile("" : : "m"(sink));
    return 2.0 * chains * steps * 64;
#else
    return 0;
#endif
}

namespace detail {

// Larger than any cache of the machines this is run on.
inline constexpr mox::index_t stream_bytes = mox::index_t{256} << 20;

inline mox::buffer<float>& stream_memory(int which) {
    static mox::buffer<float> memory[2];
    mox::buffer<float>& m = memory[which];
    if (m.size() == 0) {
        m = mox::buffer<float>(stream_bytes / 4);
        for (mox::index_t i = 0; i < m.size(); ++i) m[i] = static_cast<float>(i & 15);
    }
    return m;
}

}  // namespace detail

/// Reads once through memory larger than the caches, in four streams: one core reads them faster than one
/// stream (measured: 26 against 20 GB/s). The limit of decoding.
inline double read_burst() {
    using batch = mox::simd::batch<float>;
    constexpr mox::index_t L = mox::simd::lanes<float>;
    constexpr int streams = 4;
    const mox::buffer<float>& from = detail::stream_memory(0);
    const mox::index_t size = from.size() / streams;
    batch acc[2 * streams];
    for (batch& a : acc) a = batch(0.0f);
    const float* p = from.data();
    for (mox::index_t i = 0; i + 2 * L <= size; i += 2 * L) {
#pragma GCC unroll 4
        for (int s = 0; s < streams; ++s) {
            acc[2 * s] = acc[2 * s] + mox::simd::load<float>(p + s * size + i);
            acc[2 * s + 1] = acc[2 * s + 1] + mox::simd::load<float>(p + s * size + i + L);
        }
    }
    float sink = 0;
    for (const batch& v : acc) sink += mox::simd::reduce_add(v);
    asm volatile("" : : "m"(sink));
    return static_cast<double>(detail::stream_bytes);
}

/// Reads one large buffer and writes another with ordinary stores. Not the machine's limit: stores past the
/// caches moved 1.7 times as much here, so a share of this says less than a share of the other limits.
inline double copy_burst() {
    constexpr mox::index_t L = mox::simd::lanes<float>;
    const mox::buffer<float>& from = detail::stream_memory(0);
    mox::buffer<float>& to = detail::stream_memory(1);
    const float* p = from.data();
    float* q = to.data();
    for (mox::index_t i = 0; i + 4 * L <= from.size(); i += 4 * L) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) mox::simd::store(q + i + j * L, mox::simd::load<float>(p + i + j * L));
    }
    asm volatile("" : : "r"(q) : "memory");
    return 2.0 * static_cast<double>(detail::stream_bytes);
}

}  // namespace bench
