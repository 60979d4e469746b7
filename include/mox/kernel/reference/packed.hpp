#pragma once

// The plain twin of packed_tile.hpp: what a packed product means, in loops over single codes. Networks of
// double run on it.

#include <mox/kernel/packed_tile.hpp>

namespace mox::inline MOX_ABI::kernel::reference {

/// Value k of a rounded row, for scale 1.
template <class F>
double row_value(const std::byte* codes, index_t k) {
    if constexpr (std::is_same_v<F, weight::bf16>) {
        return from_bf16(kernel::detail::read_as<std::uint16_t>(codes + 2 * k));
    } else if constexpr (requires { F::padded_group; }) {
        return static_cast<std::int8_t>(codes[k / F::group * F::padded_group + k % F::group]);
    } else {
        return static_cast<int>(codes[k]) - 128;
    }
}

/// out[r] = x[r] B for rows r < count and the `width` columns of one panel.
template <class F, class T>
void packed_tile(index_t count, const packed_row<T>* x, const std::byte* panel, index_t width, index_t k_size,
                 T* out, index_t ldc) {
    for (index_t r = 0; r < count; ++r) {
        for (index_t c = 0; c < width; ++c) {
            double sum = 0;
            for (index_t k = 0; k < k_size; ++k)
                sum += row_value<F>(x[r].codes, k) * F::value(panel, width, k_size, k, c);
            out[r * ldc + c] = static_cast<T>(sum * static_cast<double>(x[r].scale));
        }
    }
}

}  // namespace mox::inline MOX_ABI::kernel::reference
