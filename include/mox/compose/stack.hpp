#pragma once

#include <mox/compose/chain.hpp>

namespace mox::inline MOX_ABI {

/// Layers one after the other. Widths of neighbours must agree.
template <class... Ls>
struct stack {
    static_assert(detail::check_chain<Ls...>());
    using children = leaves<Ls...>;
    using first = typename children::template at<0>;
    using input = std::conditional_t<detail::takes_ids<first>(), token_ids, void>;
    template <class T>
    using rows_in = std::conditional_t<std::is_same_v<input, token_ids>, token_ids, matrix_view<const T>>;

    static constexpr std::string_view name = "stack";
    static constexpr index_t in = first::in;
    static constexpr index_t out = children::template at<sizeof...(Ls) - 1>::out;

    static constexpr double flops(double context) { return detail::chain<stack>::flops(context); }

    template <class T>
    static void forward(context<T>& ctx, param_ref<stack, const T> w, rows_in<T> x, matrix_view<T> y) {
        detail::chain<stack>::template forward<T>(ctx, w, x, y);
    }
    template <class T>
    static void backward(context<T>& ctx, param_ref<stack, const T> w, param_ref<stack, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        detail::chain<stack>::template backward<T>(ctx, w, g, dy, dx);
    }
};

}  // namespace mox::inline MOX_ABI
