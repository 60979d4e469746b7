#pragma once

// The plain twins of ranks.hpp. B is row-major, ranks x width; a token's list has k rows of it, -1 for none.

#include <mox/core/view.hpp>

namespace mox::inline MOX_ABI::kernel::reference {

/// y_t += sum_j weight[t, j] B[chosen[t, j]].
template <class T>
void add_chosen_rows(const row_t* chosen, const T* weight, index_t k, matrix_view<const T> b,
                     matrix_view<T> y) {
    for (index_t i = 0; i < y.rows * k; ++i) {
        for (index_t c = 0; chosen[i] >= 0 && c < y.cols; ++c) y(i / k, c) += weight[i] * b(chosen[i], c);
    }
}

/// out[t, j] = x_t . B[chosen[t, j]], 0 where nothing is chosen.
template <class T>
void dot_chosen_rows(matrix_view<const T> x, const row_t* chosen, index_t k, matrix_view<const T> b, T* out) {
    for (index_t i = 0; i < x.rows * k; ++i) {
        out[i] = 0;
        for (index_t c = 0; chosen[i] >= 0 && c < x.cols; ++c) out[i] += x(i / k, c) * b(chosen[i], c);
    }
}

/// dB[i] (+)= sum over the tokens that chose i of weight[t, j] y_t.
template <class T>
void chosen_rows_gradient(const row_t* chosen, const T* weight, index_t k, matrix_view<const T> y,
                          matrix_view<T> db, bool accumulate) {
    for (index_t r = 0; r < db.rows && !accumulate; ++r) {
        for (index_t c = 0; c < db.cols; ++c) db(r, c) = 0;
    }
    for (index_t i = 0; i < y.rows * k; ++i) {
        for (index_t c = 0; chosen[i] >= 0 && c < y.cols; ++c) db(chosen[i], c) += weight[i] * y(i / k, c);
    }
}

}  // namespace mox::inline MOX_ABI::kernel::reference
