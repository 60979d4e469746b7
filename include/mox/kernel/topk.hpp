#pragma once

// Selection. Ties go to the lowest index; NaN counts as smaller than everything, so that the result is always
// k distinct indices.

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/elementwise.hpp>
#include <mox/simd/batch.hpp>
#include <mox/simd/transpose.hpp>

namespace mox::inline MOX_ABI::kernel {

namespace detail {

// Order of selection between two candidates.
template <class T>
bool goes_first(T a, row_t ia, T b, row_t ib) {
    const bool a_nan = a != a, b_nan = b != b;
    if (a_nan || b_nan) return a_nan == b_nan ? ia < ib : b_nan;
    return a != b ? a > b : ia < ib;
}

}  // namespace detail

/// The k largest of n values, best first; 0 < k <= n. Insertion into a short sorted list: for a few of some
/// hundred values most candidates fail the first comparison.
template <class T>
void top_k_row(const T* values, index_t n, index_t k, row_t* chosen) {
    index_t held = 0;
    for (index_t i = 0; i < n; ++i) {
        const T v = values[i];
        if (held == k) {
            const T last = values[chosen[k - 1]];
            // Later indices lose ties; a NaN at the end of the list loses to any number.
            if (!(v > last) && !(last != last && v == v)) continue;
        }
        index_t at = held < k ? held++ : k - 1;
        const row_t index = static_cast<row_t>(i);
        while (at > 0 && detail::goes_first(v, index, values[chosen[at - 1]], chosen[at - 1])) {
            chosen[at] = chosen[at - 1];
            --at;
        }
        chosen[at] = index;
    }
}

namespace detail {

// Values of a row that are turned round at a time: 16 KB of float with registers of 16.
inline constexpr index_t turned_values = 256;

// Most of the largest that lane by lane selection takes: lists and places of 8 are 16 registers, and every k
// is a function to compile. Measured with 512 rows of f32, lane by lane against row by row: the 2 largest of
// 8, 64, 256, 1024 in 1.3, 7.5, 31, 195 us against 7.4, 39, 178, 634; the 8 largest of 256 in 65 against 456.
inline constexpr index_t lanes_k = 8;

// Places are counted in T, which holds whole numbers up to here.
template <class T>
inline constexpr index_t lanes_values = index_t{1} << std::numeric_limits<T>::digits;

// The K largest of each of as many rows as a register has lanes: every lane keeps its own sorted list. False,
// and nothing written, when a value is not finite: comparisons alone would not put those in order.
template <class T, class Arch, int K>
MOX_NOINLINE bool top_k_lanes(const T* rows, index_t stride, index_t n, row_t* chosen) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    alignas(64) T columns[static_cast<std::size_t>(turned_values * L)];
    index_t size = std::min(turned_values, n);
    simd::transpose_lanes<T, Arch>(rows, stride, size, columns);
    batch best[K], place[K];
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) {
        best[j] = batch(-std::numeric_limits<T>::infinity());
        place[j] = batch(T(0));
    }
    batch finite(T(0)), index(T(0));
    for (;;) {
        for (index_t i = 0; i < size; ++i) {
            const batch v = simd::load<T, Arch>(columns + i * L);
            finite = finite + (v - v);
            // Only a larger value goes before another: of equal ones the first stays first.
#pragma GCC unroll 8
            for (int j = K - 1; j > 0; --j) {
                const auto here = v > best[j], before = v > best[j - 1];
                best[j] = simd::select(here, simd::select(before, best[j - 1], v), best[j]);
                place[j] = simd::select(here, simd::select(before, place[j - 1], index), place[j]);
            }
            const auto top = v > best[0];
            best[0] = simd::select(top, v, best[0]);
            place[0] = simd::select(top, index, place[0]);
            index = index + batch(T(1));
        }
        rows += size;
        n -= size;
        if (n == 0) break;
        size = std::min(turned_values, n);
        simd::transpose_lanes<T, Arch>(rows, stride, size, columns);
    }
    alignas(64) T lanes[static_cast<std::size_t>(L)];
    finite.store_aligned(lanes);
    for (index_t lane = 0; lane < L; ++lane) {
        if (!(lanes[lane] == T(0))) return false;
    }
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) {
        place[j].store_aligned(lanes);
        for (index_t lane = 0; lane < L; ++lane) chosen[lane * K + j] = static_cast<row_t>(lanes[lane]);
    }
    return true;
}

template <class T, class Arch, int... J>
constexpr auto top_k_table(std::integer_sequence<int, J...>) {
    return std::array<bool (*)(const T*, index_t, index_t, row_t*), sizeof...(J)>{
        &top_k_lanes<T, Arch, J + 1>...};
}

}  // namespace detail

/// The k largest of every row, best first. chosen: rows x k.
template <class T, class Arch = simd::default_arch>
void top_k_rows(executor_ref exec, std::type_identity_t<matrix_view<const T>> values, index_t k,
                row_t* chosen) {
    static constexpr auto table =
        detail::top_k_table<T, Arch>(std::make_integer_sequence<int, static_cast<int>(detail::lanes_k)>{});
    constexpr index_t L = simd::lanes<T, Arch>;
    const index_t n = values.cols;
    const bool by_lanes = k > 0 && k <= detail::lanes_k && n <= detail::lanes_values<T>;
    // 256 rows of 8 values take a microsecond.
    parallel_ranges(exec, values.rows, 256, [&](index_t begin, index_t end) {
        index_t t = begin;
        while (t < end) {
            const index_t next = std::min(end, t + L);
            const bool done =
                by_lanes && next - t == L &&
                table[static_cast<std::size_t>(k - 1)](values.row(t), values.stride, n, chosen + t * k);
            for (; !done && t < next; ++t) top_k_row<T>(values.row(t), n, k, chosen + t * k);
            t = next;
        }
    });
}

/// The k largest of many values as ascending indices, in linear time on average (mixture of depths: k tokens
/// of a sequence). scratch: n numbers.
template <class T>
void select_top(const T* values, index_t n, index_t k, row_t* selected, row_t* scratch) {
    if (k <= 0) return;
    for (index_t i = 0; i < n; ++i) scratch[i] = static_cast<row_t>(i);
    if (k < n) {
        std::nth_element(scratch, scratch + k, scratch + n, [values](row_t a, row_t b) {
            return detail::goes_first(values[a], a, values[b], b);
        });
    }
    std::sort(scratch, scratch + k);
    std::copy_n(scratch, k, selected);
}

}  // namespace mox::inline MOX_ABI::kernel
