#pragma once

// W is stored in the order in which it is read: panels of columns, one behind the other. The hardware's
// prefetchers see one stream, pages are used from end to end, and rows a power of two apart do not compete
// for the same cache sets.

#include "problem.hpp"

namespace ladder {

inline void panels(const problem& p) {
    constexpr index_t V = W / L;
    p.gather();
    for (index_t n = 0; n < p.out; n += W) {
        for (index_t i = 0; i < p.rows; ++i) {
            batch sum[V];
            for (batch& s : sum) s = batch(0.0f);
            const float* b = p.panels + n * p.in;
            for (index_t k = 0; k < p.in; ++k, b += W) {
                const batch a(p.copy[i * p.in + k]);
                for (index_t v = 0; v < V; ++v) {
                    sum[v] = mox::simd::fma(a, mox::simd::load<float>(b + v * L), sum[v]);
                }
            }
            for (index_t v = 0; v < V; ++v) mox::simd::store(p.y + i * p.out + n + v * L, sum[v]);
        }
    }
}

}  // namespace ladder
