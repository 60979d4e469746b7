#pragma once

#include <array>

#include <mox/core/parameter.hpp>
#include <mox/kernel/narrow.hpp>
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
        kernel::narrow_dense<T>(exec, r, x, logits);
    }

    /// dR (+)= x' dl (unless dr is empty: nobody trains the router), dx += dl R'.
    template <class T>
    static void backward(executor_ref exec, kernel::panel_view<const T> r, kernel::panel_view<T> dr,
                         matrix_view<const T> x, matrix_view<const T> dlogits, matrix_view<T> dx,
                         bool accumulate, bool input_gradient) {
        if (dr.data) kernel::dense_weight_gradient<T>(exec, x, dlogits, dr, accumulate);
        if (input_gradient) kernel::dense_transposed<T>(exec, r, dlogits, dx, true);
    }
};

/// The same with the usual start of a map, even in +-1/sqrt(width), instead of normal numbers of deviation
/// 0.02: the routers of MoLA (arXiv 2402.08562), LoRAMoE (arXiv 2312.09979) and DynMoLE (arXiv 2504.00661).
struct uniform_linear_scorer : linear_scorer {
    static constexpr fill init = fill::uniform_rows;
};

}  // namespace mox::inline MOX_ABI::route
