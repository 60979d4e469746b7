#pragma once

// The plain twins of elementwise.hpp, with the same order of summation.

#include <mox/core/view.hpp>

namespace mox::inline MOX_ABI::kernel::reference {

/// to_i = from_index[i], or from_i without an index.
template <class T>
void gather_rows(matrix_view<const T> from, const row_t* index, matrix_view<T> to) {
    for (index_t i = 0; i < to.rows; ++i) {
        for (index_t j = 0; j < to.cols; ++j) to(i, j) = from(index ? index[i] : i, j);
    }
}

/// to += from.
template <class T>
void add_rows(matrix_view<const T> from, matrix_view<T> to) {
    for (index_t i = 0; i < to.rows; ++i) {
        for (index_t j = 0; j < to.cols; ++j) to(i, j) += from(i, j);
    }
}

/// Adds one vector to every row.
template <class T>
void add_vector_rows(const T* vector, matrix_view<T> to) {
    for (index_t i = 0; i < to.rows; ++i) {
        for (index_t j = 0; j < to.cols; ++j) to(i, j) += vector[j];
    }
}

/// sum[j] (+)= sum over rows of x(., j).
template <class T>
void sum_columns(matrix_view<const T> x, T* sum, bool accumulate) {
    for (index_t j = 0; j < x.cols; ++j) {
        if (!accumulate) sum[j] = 0;
        for (index_t t = 0; t < x.rows; ++t) sum[j] += x(t, j);
    }
}

}  // namespace mox::inline MOX_ABI::kernel::reference
