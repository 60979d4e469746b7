#pragma once

// Six rows at once: every value of W that is loaded now serves six multiply-adds instead of one, so the loads
// no longer limit. With 32 registers that is 24 sums, 4 values of W and 1 of x; more rows would not fit. This
// is where the kernel begins to be bound by arithmetic.

#include "problem.hpp"

namespace ladder {

// `row`: where row r of x is; c: where row r of the strip goes.
template <int R>
MOX_NOINLINE void tile(const float* const* row, const float* b, index_t in, float* const* c) {
    constexpr int V = static_cast<int>(W / L);
    const float* x[R];
    for (int r = 0; r < R; ++r) x[r] = row[r];
    batch sum[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] = batch(0.0f);
    }
    for (index_t k = 0; k < in; ++k, b += W) {
        batch bv[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) bv[v] = mox::simd::load<float>(b + v * L);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const batch a(x[r][k]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sum[r][v] = mox::simd::fma(a, bv[v], sum[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) mox::simd::store(c[r] + v * L, sum[r][v]);
    }
}

// Tiles of all rows and panels; `row(i)` is where row i of x is.
template <class Row>
void tiles(const problem& p, Row&& row) {
    for (index_t n = 0; n < p.out; n += W) {
        const auto cut = [&]<int R>(index_t i) {
            const float* x[R];
            float* c[R];
            for (int r = 0; r < R; ++r) {
                x[r] = row(i + r);
                c[r] = p.y + (i + r) * p.out + n;
            }
            tile<R>(x, p.panels + n * p.in, p.in, c);
        };
        index_t i = 0;
        for (; i + 6 <= p.rows; i += 6) cut.template operator()<6>(i);
        for (; i < p.rows; ++i) cut.template operator()<1>(i);
    }
}

inline void register_tile(const problem& p) {
    p.gather();
    tiles(p, [&](index_t i) { return p.copy + i * p.in; });
}

}  // namespace ladder
