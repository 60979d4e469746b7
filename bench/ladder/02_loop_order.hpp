#pragma once

// The same sums with the loops over k and n exchanged: the inner loop runs along rows of W and of y, which
// the compiler turns into vector instructions without being asked. But each step loads and stores y again.

#include "problem.hpp"

namespace ladder {

inline void loop_order(const problem& p) {
    p.gather();
    for (index_t i = 0; i < p.rows; ++i) {
        float* const to = p.y + i * p.out;
        std::fill_n(to, p.out, 0.0f);
        for (index_t k = 0; k < p.in; ++k) {
            const float a = p.copy[i * p.in + k];
            const float* const from = p.w + k * p.out;
            for (index_t n = 0; n < p.out; ++n) to[n] += a * from[n];
        }
    }
}

}  // namespace ladder
