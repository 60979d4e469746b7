#pragma once

#include <array>

#include <mox/core/parameter.hpp>
#include <mox/kernel/dense.hpp>
#include <mox/kernel/narrow.hpp>
#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI::route {

/// logits = x R with a router that is used and not trained: that of a trained mixture whose experts are
/// adapted (mox::lora_expert). Its tensor is linear_scorer's; the gradient of x passes through.
struct frozen_linear_scorer {
    using policy = scorer_policy;
    static constexpr std::string_view name = "router";

    template <index_t In, index_t Outputs>
    static constexpr std::array parameters{parameter{.name = name,
                                                     .form = storage::panels,
                                                     .rows = In,
                                                     .cols = Outputs,
                                                     .init = fill::small,
                                                     .trained = false}};
    template <class T>
    using record = std::byte;

    template <index_t In, index_t Outputs, class T, class Context>
    static std::byte forward(Context& ctx, tensor_list<const T> w, matrix_view<const T> x,
                             matrix_view<T> logits) {
        kernel::narrow_dense<T>(ctx.exec, panels<In, Outputs>(w[0]), x, logits);
        return {};
    }
    template <index_t In, index_t Outputs, class T, class Context>
    static void backward(Context& ctx, tensor_list<const T> w, tensor_list<T>, matrix_view<const T>,
                         std::byte, matrix_view<const T> dlogits, matrix_view<T> dx) {
        if (ctx.input_gradient)
            kernel::dense_transposed<T>(ctx.exec, panels<In, Outputs>(w[0]), dlogits, dx, true);
    }

private:
    template <index_t In, index_t Outputs, class T>
    static constexpr kernel::panel_view<const T> panels(const T* p) {
        return {p, In, kernel::panel_layout<T>::padded(Outputs)};
    }
};

}  // namespace mox::inline MOX_ABI::route
