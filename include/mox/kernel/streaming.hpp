#pragma once

// How element-wise kernels walk rows that no cache holds: a row is read once and stays in the first cache,
// the result goes past the caches. Passes over a row follow each other: reading the next row in the loop that
// writes this one was slower (measured on rows of 4 KB: 0.79 instead of 0.98 of a copy).

#include <algorithm>
#include <cstdint>

#include <mox/core/view.hpp>
#include <mox/kernel/four_sums.hpp>
#include <mox/simd/stream.hpp>

namespace mox::inline MOX_ABI::kernel {

/// Whether a kernel should write `to` past the caches: its rows start at whole registers, and the result is
/// larger than half of simd::last_level_cache. (Measured with 32 MB, rms_norm and a reader of its result,
/// streaming against ordinary stores: 1.5 times the time at 8 MB, 1.16 at 12, 1.00 at 16, 0.81 at 24, 0.72
/// at 32.)
template <class T, class Arch = simd::default_arch>
bool streams(const matrix_view<T>& to) noexcept {
    if constexpr (!simd::has_streaming<T, Arch>) return false;
    return to.rows * to.cols * static_cast<index_t>(sizeof(T)) > simd::last_level_cache() / 2 &&
           to.stride % simd::lanes<T, Arch> == 0 &&
           reinterpret_cast<std::uintptr_t>(to.data) % sizeof(simd::batch<T, Arch>) == 0;
}

/// Up to so many bytes of rows asking for them in advance does not pay. (Measured with a last cache of 32 MB,
/// an adapter of 1024 columns, 8 of 32 ranks, time with asking in units of that without: rows of 2 MB 1.015,
/// 3 and 4 MB 1.00, 6 MB 0.88, 8 MB 0.80; 512 rows of 4096 columns 0.6. With 2 MB for a core and 300 MB for
/// the socket: half a MB 1.0, 1 MB 0.8, 2 MB 0.56, 8 MB 0.5.)
constexpr index_t near_bytes(const simd::cache_sizes& sizes) noexcept {
    return sizes.of_socket ? sizes.second / 4 : sizes.last / 8;
}
inline index_t near_bytes() noexcept { return near_bytes(simd::caches()); }

/// Whether a kernel that takes `x` in pieces, a few columns of many rows, should ask for them in advance: the
/// hardware fetches ahead along a row, not from row to row. Where the rows lie in a cache it only costs.
template <class T>
bool asks_ahead(const matrix_view<T>& x) noexcept {
    return x.rows * x.cols * static_cast<index_t>(sizeof(T)) > near_bytes();
}

namespace detail {

// Calls body with std::true_type where results go past the caches, and with std::false_type elsewhere.
template <class Body>
MOX_INLINE void with_stores(bool past, Body&& body) {
    if (past) {
        body(std::true_type{});
        simd::stream_fence();
    } else {
        body(std::false_type{});
    }
}

// Stores `n` values; a whole register past the caches if asked.
template <bool Stream, class T, class Arch>
MOX_INLINE void put(T* p, const simd::batch<T, Arch>& v, index_t n) noexcept {
    if constexpr (Stream) {
        if (n == simd::lanes<T, Arch>) return simd::store_streaming(p, v);
    }
    simd::store_upto(p, v, n);
}

// Asks for the row that follows, while memory would only be written.
template <bool Stream, class T>
MOX_INLINE void ask_for_next(const T* p) noexcept {
    if constexpr (Stream) simd::prefetch(p);
}

// Asks for the lines of n values at p; any address is allowed.
template <class T>
MOX_INLINE void ask_for(const T* p, index_t n) noexcept {
    constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));
#pragma GCC unroll 8
    for (index_t i = 0; i < n; i += line) simd::prefetch(p + i);
}

// `value` in the first `count` lanes, zero in the others.
template <class T, class Arch>
MOX_INLINE simd::batch<T, Arch> first_lanes(T value, index_t count) {
    constexpr index_t L = simd::lanes<T, Arch>;
    if (count == L) return simd::batch<T, Arch>(value);
    alignas(64) T lanes[static_cast<std::size_t>(L)] = {};
    std::fill_n(lanes, count, value);
    return simd::load<T, Arch>(lanes);
}

}  // namespace detail

}  // namespace mox::inline MOX_ABI::kernel
