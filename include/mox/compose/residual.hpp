#pragma once

#include <mox/compose/chain.hpp>
#include <mox/kernel/elementwise.hpp>

namespace mox::inline MOX_ABI {

/// y = x + L_n(... L_1(x)).
template <class... Ls>
struct residual {
    static_assert(detail::check_chain<Ls...>());
    using children = leaves<Ls...>;
    static_assert(!detail::takes_ids<typename children::template at<0>>(),
                  "mox::residual: an embedding has no residual, its input is not a row of numbers");

    static constexpr std::string_view name = "residual";
    static constexpr index_t in = children::template at<0>::in;
    static constexpr index_t out = children::template at<sizeof...(Ls) - 1>::out;
    static_assert(in == out, "mox::residual: the layers must end with the width they began with");

    static constexpr double flops(double context) { return detail::chain<residual>::flops(context); }

    template <class T>
    static void forward(context<T>& ctx, param_ref<residual, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        detail::chain<residual>::template forward<T>(ctx, w, x, y);
        kernel::add_rows<T>(ctx.exec, x, y);
    }
    template <class T>
    static void backward(context<T>& ctx, param_ref<residual, const T> w, param_ref<residual, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        detail::chain<residual>::template backward<T>(ctx, w, g, dy, dx);
        if (ctx.input_gradient) kernel::add_rows<T>(ctx.exec, dy, dx);
    }
};

}  // namespace mox::inline MOX_ABI
