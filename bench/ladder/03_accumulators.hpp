#pragma once

// A strip of a row of y stays in registers while all of k passes by: no more loads and stores of y. Several
// registers side by side are several independent sums, so that one need not wait for the other. W is read in
// strips, with a jump after each; every value of it still serves one row only.

#include "problem.hpp"

namespace ladder {

inline void accumulators(const problem& p) {
    constexpr index_t V = W / L;
    p.gather();
    for (index_t n = 0; n < p.out; n += W) {
        for (index_t i = 0; i < p.rows; ++i) {
            batch sum[V];
            for (batch& s : sum) s = batch(0.0f);
            for (index_t k = 0; k < p.in; ++k) {
                const batch a(p.copy[i * p.in + k]);
                for (index_t v = 0; v < V; ++v) {
                    sum[v] = mox::simd::fma(a, mox::simd::load<float>(p.w + k * p.out + n + v * L), sum[v]);
                }
            }
            for (index_t v = 0; v < V; ++v) mox::simd::store(p.y + i * p.out + n + v * L, sum[v]);
        }
    }
}

}  // namespace ladder
