#pragma once

// Dense maps: the case of one group that holds every row.

#include <mox/kernel/grouped.hpp>

namespace mox::inline MOX_ABI::kernel {

/// y (+)= x W.
template <class T>
void dense(executor_ref exec, std::type_identity_t<panel_view<const T>> w,
           std::type_identity_t<matrix_view<const T>> x, matrix_view<T> y, bool accumulate = false) {
    const row_t whole[2] = {0, static_cast<row_t>(x.rows)};
    grouped_product_to_tokens<T>(exec, {whole, 1}, nullptr, row_source(x), static_cast<const T*>(nullptr),
                                 panel_stack<const T>{w}, y, accumulate);
}

/// dW (+)= x' dy.
template <class T>
void dense_weight_gradient(executor_ref exec, std::type_identity_t<matrix_view<const T>> x,
                           std::type_identity_t<matrix_view<const T>> dy, panel_view<T> dw, bool accumulate) {
    const row_t whole[2] = {0, static_cast<row_t>(x.rows)};
    grouped_weight_gradient<T>(exec, {whole, 1}, row_source(x), row_source(dy), dy.cols, panel_stack<T>{dw},
                               accumulate);
}

/// dx (+)= dy W'.
template <class T>
void dense_transposed(executor_ref exec, std::type_identity_t<panel_view<const T>> w,
                      std::type_identity_t<matrix_view<const T>> dy, matrix_view<T> dx, bool accumulate) {
    const row_t whole[2] = {0, static_cast<row_t>(dy.rows)};
    grouped_transposed_to_tokens<T>(exec, {whole, 1}, nullptr, row_source(dy), dy.cols,
                                    panel_stack<const T>{w}, dx, accumulate);
}

}  // namespace mox::inline MOX_ABI::kernel
