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

/// Products by slot: y_s (+)= scale_s * x_row(s) W_e for the slots s of each group e, offsets[e] up to
/// offsets[e + 1]. weights: groups x inputs x outputs; row and scale as above.
template <class T>
void grouped_product(matrix_view<const T> x, const row_t* row, const row_t* offsets, index_t groups,
                     const T* weights, const T* scale, matrix_view<T> y, bool accumulate) {
    for (index_t e = 0; e < groups; ++e) {
        for (index_t s = offsets[e]; s < offsets[e + 1]; ++s) {
            product<T>(x.middle_rows(row ? row[s] : s, 1), nullptr,
                       {weights + e * x.cols * y.cols, x.cols, y.cols}, scale ? scale + s : nullptr,
                       y.middle_rows(s, 1), accumulate);
        }
    }
}

/// dx_s (+)= dy_row(s) W_e'.
template <class T>
void grouped_transposed(matrix_view<const T> dy, const row_t* row, const row_t* offsets, index_t groups,
                        const T* weights, matrix_view<T> dx, bool accumulate) {
    for (index_t e = 0; e < groups; ++e) {
        for (index_t s = offsets[e]; s < offsets[e + 1]; ++s) {
            product_transposed<T>(dy.middle_rows(row ? row[s] : s, 1), nullptr,
                                  {weights + e * dx.cols * dy.cols, dx.cols, dy.cols}, dx.middle_rows(s, 1),
                                  accumulate);
        }
    }
}

/// The slots of a token added up: y_token(s) += x_s.
template <class T>
void add_to_tokens(matrix_view<const T> x, const row_t* token, matrix_view<T> y) {
    for (index_t s = 0; s < x.rows; ++s) {
        for (index_t j = 0; j < x.cols; ++j) y(token[s], j) += x(s, j);
    }
}

}  // namespace mox::inline MOX_ABI::kernel::reference
