#pragma once

// Selection. Ties go to the lowest index; NaN counts as smaller than everything, so that the result is always
// k distinct indices.

#include <algorithm>
#include <limits>

#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/elementwise.hpp>

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

/// chosen: rows x k.
template <class T>
void top_k_rows(executor_ref exec, std::type_identity_t<matrix_view<const T>> values, index_t k,
                row_t* chosen) {
    parallel_ranges(exec, values.rows, 256, [&](index_t begin, index_t end) {
        for (index_t t = begin; t < end; ++t) top_k_row<T>(values.row(t), values.cols, k, chosen + t * k);
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
