#pragma once

#include <array>

#include <mox/kernel/grouped.hpp>
#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI::route {

/// logits = x R: the router of almost every mixture. No bias.
struct linear_scorer {
    using policy = scorer_policy;
    static constexpr std::string_view name = "router";

    /// One tensor: R, width x outputs.
    template <class T>
    static void forward(executor_ref exec, kernel::panel_view<const T> r, matrix_view<const T> x,
                        matrix_view<T> logits) {
        const row_t whole[2] = {0, static_cast<row_t>(x.rows)};
        kernel::grouped_product_to_tokens<T>(exec, {whole, 1}, nullptr, kernel::row_source(x),
                                             static_cast<const T*>(nullptr), kernel::panel_stack<const T>{r},
                                             logits, false);
    }

    /// dR (+)= x' dl, dx += dl R'.
    template <class T>
    static void backward(executor_ref exec, kernel::panel_view<const T> r, kernel::panel_view<T> dr,
                         matrix_view<const T> x, matrix_view<const T> dlogits, matrix_view<T> dx,
                         bool accumulate, bool input_gradient) {
        const row_t whole[2] = {0, static_cast<row_t>(x.rows)};
        kernel::grouped_weight_gradient<T>(exec, {whole, 1}, kernel::row_source(x), kernel::row_source(dlogits),
                                           dlogits.cols, kernel::panel_stack<T>{dr}, accumulate);
        if (input_gradient) {
            kernel::grouped_transposed_to_tokens<T>(exec, {whole, 1}, nullptr, kernel::row_source(dlogits),
                                                    dlogits.cols, kernel::panel_stack<const T>{r}, dx, true);
        }
    }
};

}  // namespace mox::inline MOX_ABI::route
