#pragma once

#include <mox/layer/adapt.hpp>
#include <mox/layer/contract.hpp>

namespace mox::inline MOX_ABI {

/// L as it is, and what reaches it can be seen: tape::observe names who is told. Costs nothing when nobody
/// looks. mox::copy_matching takes its parameters for those of L.
template <class L>
struct observed {
    static_assert(!detail::takes_ids<L>(),
                  "mox::observed: whoever gives token ids has seen them; observe the layer behind");
    static_assert(check_layer<L>());

    using children = leaves<L>;

    static constexpr std::string_view name = "observed";
    static constexpr bool transparent = true;
    static constexpr bool is_observed = true;
    static constexpr index_t in = L::in;
    static constexpr index_t out = L::out;

    static constexpr double flops(double context) { return L::flops(context); }

    template <class T>
    static void forward(context<T>& ctx, param_ref<observed, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        const observation<T> seen{ctx.next_observed++, type_id<observed>(), x};
        ctx.observer.forward(seen);
        L::template forward<T>(ctx, w.template child<0>(), x, y);
        ctx.save(seen);
    }
    template <class T>
    static void backward(context<T>& ctx, param_ref<observed, const T> w, param_ref<observed, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto seen = ctx.template restore<observation<T>>();
        L::template backward<T>(ctx, w.template child<0>(), g.template child<0>(), dy, dx);
        if (ctx.input_gradient) ctx.observer.backward(seen, dx);
    }
};

/// Shows the inputs of the maps of a layer, which `Adapter` may wrap besides:
///     attention<spec, mask, as_observed<>>
///     attention<spec, mask, as_observed<with_lora<r8>>>
/// A fused map has one input, whatever its parts are wrapped in.
template <class Adapter = as_they_are>
struct as_observed {
    static_assert(detail::check_adapter<Adapter>());

    template <class L>
    using around = observed<typename Adapter::template around<L>>;
    template <class L, index_t... Widths>
    using around_parts = observed<typename detail::around_fused<Adapter, L, Widths...>::type>;
};

template <class Adapter>
inline constexpr bool trains_maps<as_observed<Adapter>> = trains_maps<Adapter>;

}  // namespace mox::inline MOX_ABI
