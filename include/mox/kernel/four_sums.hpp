#pragma once

// Sums along a row.

#include <algorithm>

#include <mox/simd/batch.hpp>

namespace mox::inline MOX_ABI::kernel::detail {

// A sum in four registers, so that additions do not wait for each other.
template <class T, class Arch>
struct four_sums {
    simd::batch<T, Arch> part[4] = {simd::batch<T, Arch>(T(0)), simd::batch<T, Arch>(T(0)),
                                    simd::batch<T, Arch>(T(0)), simd::batch<T, Arch>(T(0))};
    MOX_INLINE T total() const { return simd::reduce_add((part[0] + part[1]) + (part[2] + part[3])); }
};

// Calls body(k, offset, count) for [0, size) in register-wide steps, k the register of four_sums they belong
// to; count < lanes only in the last call.
template <class T, class Arch, class Body>
MOX_INLINE void for_each_of_four(index_t size, Body&& body) {
    constexpr index_t L = simd::lanes<T, Arch>;
    index_t i = 0;
    for (; i + 4 * L <= size; i += 4 * L) {
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) body(k, i + k * L, L);
    }
    for (; i < size; i += L) body(0, i, std::min(L, size - i));
}

}  // namespace mox::inline MOX_ABI::kernel::detail
