#pragma once

// What the machine can do at most, measured in this process between the rows that are compared with it.
// Every function does one burst and returns the operations done or the bytes moved; 0 where the instruction
// set this program is compiled for has no such operation. Several threads can do a burst each at the same
// time; of memory each takes its part.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <iterator>
#include <type_traits>

#include <mox/core/buffer.hpp>
#include <mox/simd/batch.hpp>
#include <mox/simd/dot.hpp>
#include <mox/simd/stream.hpp>

#if defined(__AVX512BF16__) || defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

namespace bench {

using mox::index_t;

/// Fused multiply-adds with enough independent chains to fill the pipelines: the limit of f32 products.
inline double fma_burst(index_t /*part*/ = 0, index_t /*parts*/ = 1) {
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
inline double bf16_burst(index_t /*part*/ = 0, index_t /*parts*/ = 1) {
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
inline double int8_burst(index_t /*part*/ = 0, index_t /*parts*/ = 1) {
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
inline double read_burst(index_t part = 0, index_t parts = 1) {
    using batch = mox::simd::batch<float>;
    constexpr mox::index_t L = mox::simd::lanes<float>;
    constexpr int streams = 4;
    const mox::buffer<float>& from = detail::stream_memory(0);
    const mox::index_t size = from.size() / parts / streams;
    batch acc[2 * streams];
    for (batch& a : acc) a = batch(0.0f);
    const float* p = from.data() + part * (from.size() / parts);
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
    return static_cast<double>(detail::stream_bytes / parts);
}

namespace detail {

// Calls move(i) for registers that begin at value i, in so many streams of four registers at a time.
template <int Streams, class Move>
MOX_INLINE void in_streams(mox::index_t size, Move&& move) {
    constexpr mox::index_t L = mox::simd::lanes<float>;
    const mox::index_t part = size / Streams;
    for (mox::index_t i = 0; i + 4 * L <= part; i += 4 * L) {
#pragma GCC unroll 4
        for (int s = 0; s < Streams; ++s) {
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) move(s * part + i + j * L);
        }
    }
    mox::simd::stream_fence();
}

// to = from, with stores past the caches or ordinary ones.
template <int Streams, bool Past>
void copy_streams(const float* from, float* to, mox::index_t size) {
    constexpr mox::index_t ahead =
        2048 / 4;  // pages end every 4 KB, and with them the hardware's prefetching
    in_streams<Streams>(size, [&](mox::index_t at) {
        if (Past) mox::simd::prefetch_near(from + at + ahead);
        const auto v = mox::simd::load<float>(from + at);
        if (Past) {
            mox::simd::store_streaming(to + at, v);
        } else {
            mox::simd::store(to + at, v);
        }
    });
    asm volatile("" : : "r"(to) : "memory");
}

// to = first + second past the caches; lines are asked for so many values in advance, if at all.
template <int Streams, index_t Ahead>
void add_streams(const float* first, const float* second, float* to, mox::index_t size) {
    in_streams<Streams>(size, [&](mox::index_t at) {
        if (Ahead > 0) {
            mox::simd::prefetch_near(first + at + Ahead);
            mox::simd::prefetch_near(second + at + Ahead);
        }
        const auto v = mox::simd::load<float>(first + at) + mox::simd::load<float>(second + at);
        mox::simd::store_streaming(to + at, v);
    });
    asm volatile("" : : "r"(to) : "memory");
}

// The fastest of some ways to do the same here: the best of a few repetitions of each, in turns.
template <class... Arguments, std::size_t N>
auto fastest(void (*const (&ways)[N])(Arguments...), std::type_identity_t<Arguments>... arguments) {
    double best[N];
    std::fill(std::begin(best), std::end(best), 1e300);
    for (int repetition = 0; repetition < 5; ++repetition) {
        for (std::size_t i = 0; i < N; ++i) {
            const auto start = std::chrono::steady_clock::now();
            ways[i](arguments...);
            const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
            best[i] = std::min(best[i], took.count());
        }
    }
    return ways[std::min_element(std::begin(best), std::end(best)) - std::begin(best)];
}

}  // namespace detail

/// Reads one large buffer and writes another, in the way that is fastest on this machine: with stores past
/// the caches (measured: 42 GB/s) or ordinary ones, which read what they overwrite (24), in one stream or
/// several. Bytes read plus bytes written.
inline double copy_burst(index_t part = 0, index_t parts = 1) {
    const mox::buffer<float>& from = detail::stream_memory(0);
    mox::buffer<float>& to = detail::stream_memory(1);
    using detail::copy_streams;
    static constexpr void (*ways[])(const float*, float*, mox::index_t) = {
        &copy_streams<1, false>, &copy_streams<4, false>, &copy_streams<1, true>, &copy_streams<2, true>,
        &copy_streams<4, true>};
    static const auto copy = detail::fastest(ways, from.data(), to.data(), from.size());
    const index_t size = from.size() / parts;
    copy(from.data() + part * size, to.data() + part * size, size);
    return 2.0 * static_cast<double>(detail::stream_bytes / parts);
}

/// Reads two large buffers and writes a third, past the caches, in the way that is fastest. Memory is slower
/// at this than at a copy (measured: 35 to 38 beside 42 to 47 GB/s): the limit of gradients and gates, which
/// read twice what they write. Bytes read plus bytes written.
inline double add_burst(index_t part = 0, index_t parts = 1) {
    const mox::buffer<float>& from = detail::stream_memory(0);
    mox::buffer<float>& to = detail::stream_memory(1);
    const index_t half = from.size() / 2;
    using detail::add_streams;
    static constexpr void (*ways[])(const float*, const float*, float*, mox::index_t) = {
        &add_streams<1, 0>, &add_streams<1, 256>, &add_streams<1, 512>, &add_streams<2, 512>};
    static const auto add = detail::fastest(ways, from.data(), from.data() + half, to.data(), half);
    const index_t size = half / parts;
    add(from.data() + part * size, from.data() + half + part * size, to.data() + part * size, size);
    return 1.5 * static_cast<double>(detail::stream_bytes / parts);
}

}  // namespace bench
