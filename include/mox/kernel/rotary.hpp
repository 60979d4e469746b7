#pragma once

// Rotary positions (RoFormer, arXiv 2104.09864).

#include <cmath>

#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/elementwise.hpp>

namespace mox::inline MOX_ABI::kernel {

/// Which values of a head form a pair. Checkpoints differ.
enum class rotary_pairs {
    half_split,   ///< (i, i + d/2)
    interleaved,  ///< (2i, 2i + 1)
};

/// Fills cos and sin for positions [first, last): table[position * head_dim + 2 i] and [... + 2 i + 1].
template <class T>
void fill_rotary_table(T* table, index_t first, index_t last, index_t head_dim, double base) {
    const index_t pairs = head_dim / 2;
    for (index_t i = 0; i < pairs; ++i) {
        const double frequency =
            std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
        for (index_t p = first; p < last; ++p) {
            const double angle = static_cast<double>(p) * frequency;
            table[p * head_dim + 2 * i] = static_cast<T>(std::cos(angle));
            table[p * head_dim + 2 * i + 1] = static_cast<T>(std::sin(angle));
        }
    }
}

/// Rotates `heads` heads of head_dim values in every row by the row's position, in place; `inverse` turns
/// back, which is also the backward pass.
template <class T>
void rotate_rows(executor_ref exec, matrix_view<T> x, index_t heads, index_t head_dim, const row_t* positions,
                 const T* table, rotary_pairs pairs, bool inverse) {
    const index_t half = head_dim / 2;
    const index_t step = pairs == rotary_pairs::half_split ? 1 : 2;
    const index_t apart = pairs == rotary_pairs::half_split ? half : 1;
    parallel_ranges(exec, x.rows, rows_per_unit, [&](index_t begin, index_t end) {
        for (index_t t = begin; t < end; ++t) {
            const T* turn = table + static_cast<index_t>(positions[t]) * head_dim;
            for (index_t h = 0; h < heads; ++h) {
                T* a = x.row(t) + h * head_dim;
                T* b = a + apart;
                for (index_t i = 0; i < half; ++i) {
                    const T c = turn[2 * i];
                    const T s = inverse ? -turn[2 * i + 1] : turn[2 * i + 1];
                    const T u = a[i * step], w = b[i * step];
                    a[i * step] = u * c - w * s;
                    b[i * step] = w * c + u * s;
                }
            }
        }
    });
}

}  // namespace mox::inline MOX_ABI::kernel
