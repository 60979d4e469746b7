#pragma once

// The formula as it is written: one dot product per result. The inner loop walks down a column of W, so every
// step touches another cache line, and each sum waits for the one before it.

#include "problem.hpp"

namespace ladder {

inline void naive(const problem& p) {
    p.gather();
    for (index_t i = 0; i < p.rows; ++i) {
        for (index_t n = 0; n < p.out; ++n) {
            float sum = 0;
            for (index_t k = 0; k < p.in; ++k) sum += p.copy[i * p.in + k] * p.w[k * p.out + n];
            p.y[i * p.out + n] = sum;
        }
    }
}

}  // namespace ladder
