#pragma once

// The plain twin of rotary.hpp, which takes its angles from a table.

#include <cmath>

#include <mox/kernel/rotary.hpp>

namespace mox::inline MOX_ABI::kernel::reference {

/// Turns pair i of every head by the angle position * base^(-2 i / head_dim), or back.
template <class T>
void rotate_rows(matrix_view<T> x, index_t heads, index_t head_dim, const row_t* positions, T base,
                 rotary_pairs pairs, bool inverse) {
    const bool split = pairs == rotary_pairs::half_split;
    for (index_t t = 0; t < x.rows; ++t) {
        for (index_t i = 0; i < head_dim / 2; ++i) {
            const T frequency = std::pow(base, T(-2) * static_cast<T>(i) / static_cast<T>(head_dim));
            const T angle = static_cast<T>(positions[t]) * frequency;
            const T c = std::cos(angle), s = inverse ? -std::sin(angle) : std::sin(angle);
            for (index_t h = 0; h < heads; ++h) {
                T& a = x(t, h * head_dim + (split ? i : 2 * i));
                T& b = x(t, h * head_dim + (split ? i + head_dim / 2 : 2 * i + 1));
                const T u = a, w = b;
                a = u * c - w * s;
                b = w * c + u * s;
            }
        }
    }
}

}  // namespace mox::inline MOX_ABI::kernel::reference
