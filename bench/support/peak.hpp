#pragma once

#include <mox/simd/batch.hpp>

namespace bench {

/// Fused multiply-adds with enough independent chains to fill the pipelines: the limit of f32 products.
/// Returns the floating point operations done.
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

}  // namespace bench
