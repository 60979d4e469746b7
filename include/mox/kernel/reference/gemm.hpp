#pragma once

// The plain twins of gemm.hpp and of what is made of it, tile.hpp, gemv.hpp, narrow.hpp, row_major.hpp,
// dense.hpp, grouped.hpp, and of sparse_rows.hpp (product_transposed): what the products mean, in loops.
// Weights row-major, inputs x outputs.

#include <mox/core/view.hpp>

namespace mox::inline MOX_ABI::kernel::reference {

/// y_i (+)= scale_i * x_row(i) W. row: which row of x slot i reads, or null; scale: per slot, or null.
template <class T>
void product(matrix_view<const T> x, const row_t* row, matrix_view<const T> w, const T* scale,
             matrix_view<T> y, bool accumulate) {
    for (index_t i = 0; i < y.rows; ++i) {
        const T* xi = x.row(row ? row[i] : i);
        for (index_t n = 0; n < w.cols; ++n) {
            T sum = 0;
            for (index_t k = 0; k < w.rows; ++k) sum += xi[k] * w(k, n);
            if (scale) sum *= scale[i];
            y(i, n) = accumulate ? y(i, n) + sum : sum;
        }
    }
}

/// dx_i (+)= dy_row(i) W'.
template <class T>
void product_transposed(matrix_view<const T> dy, const row_t* row, matrix_view<const T> w, matrix_view<T> dx,
                        bool accumulate) {
    for (index_t i = 0; i < dx.rows; ++i) {
        const T* di = dy.row(row ? row[i] : i);
        for (index_t k = 0; k < w.rows; ++k) {
            T sum = 0;
            for (index_t n = 0; n < w.cols; ++n) sum += di[n] * w(k, n);
            dx(i, k) = accumulate ? dx(i, k) + sum : sum;
        }
    }
}

/// dW (+)= sum over slots i of x_row(i)' dy_i.
template <class T>
void weight_gradient(matrix_view<const T> x, const row_t* row, matrix_view<const T> dy, matrix_view<T> dw,
                     bool accumulate) {
    for (index_t k = 0; k < dw.rows; ++k) {
        for (index_t n = 0; n < dw.cols; ++n) {
            T sum = accumulate ? dw(k, n) : T(0);
            for (index_t i = 0; i < dy.rows; ++i) sum += x(row ? row[i] : i, k) * dy(i, n);
            dw(k, n) = sum;
        }
    }
}

/// One mixture-of-experts product: y_t += gate * x_t W_e for every (token, expert, gate), experts ascending.
template <class T>
void grouped_product(matrix_view<const T> x, const row_t* offsets, index_t experts, const row_t* token,
                     const T* gate, const T* weights, matrix_view<T> y) {
    for (index_t e = 0; e < experts; ++e) {
        const matrix_view<const T> w(weights + e * x.cols * y.cols, x.cols, y.cols);
        for (index_t s = offsets[e]; s < offsets[e + 1]; ++s) {
            for (index_t n = 0; n < y.cols; ++n) {
                T sum = 0;
                for (index_t k = 0; k < x.cols; ++k) sum += x(token[s], k) * w(k, n);
                y(token[s], n) += gate[s] * sum;
            }
        }
    }
}

}  // namespace mox::inline MOX_ABI::kernel::reference
