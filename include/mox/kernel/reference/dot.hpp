#pragma once

// The plain twins of dot.hpp.

#include <mox/core/view.hpp>

namespace mox::inline MOX_ABI::kernel::reference {

/// out[t] = x_t . w.
template <class T>
void dot_rows(matrix_view<const T> x, const T* w, T* out) {
    for (index_t t = 0; t < x.rows; ++t) {
        out[t] = 0;
        for (index_t j = 0; j < x.cols; ++j) out[t] += x(t, j) * w[j];
    }
}

/// dx_t += dout[t] w and dw (+)= sum_t dout[t] x_t. dx may be empty, dw null.
template <class T>
void dot_rows_backward(matrix_view<const T> x, const T* w, const T* dout, matrix_view<T> dx, T* dw,
                       bool accumulate) {
    for (index_t j = 0; j < x.cols; ++j) {
        if (dw && !accumulate) dw[j] = 0;
        for (index_t t = 0; t < x.rows; ++t) {
            if (dw) dw[j] += dout[t] * x(t, j);
            if (dx.data) dx(t, j) += dout[t] * w[j];
        }
    }
}

}  // namespace mox::inline MOX_ABI::kernel::reference
