#pragma once

// What every step of the ladder computes: y[i] = x[index[i]] W for chosen rows of x.

#include <mox/kernel/gemm.hpp>

namespace ladder {

using mox::index_t;
using batch = mox::simd::batch<float>;

constexpr index_t L = mox::simd::lanes<float>;
constexpr index_t W = mox::kernel::panel_width<float>;

struct problem {
    index_t rows = 0, in = 0, out = 0;  ///< out: a multiple of W
    const float* x = nullptr;           ///< rows of `in` values
    const mox::row_t* index = nullptr;  ///< `rows` numbers of rows of x
    const float* w = nullptr;           ///< in x out, row-major
    const float* panels = nullptr;      ///< the same in column panels: [out / W][in][W]
    float* copy = nullptr;              ///< room for rows x in values
    float* y = nullptr;                 ///< rows x out

    const float* chosen(index_t i) const { return x + index[i] * in; }

    /// Copies the chosen rows next to each other, as one does before calling a library product.
    void gather() const {
        for (index_t i = 0; i < rows; ++i) std::copy_n(chosen(i), in, copy + i * in);
    }
};

}  // namespace ladder
