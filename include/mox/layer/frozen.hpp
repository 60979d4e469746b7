#pragma once

#include <mox/layer/contract.hpp>

namespace mox::inline MOX_ABI {

/// L as it is: its parameters are used and never trained. They have no gradients and no optimiser state; the
/// gradient of the input passes through. x and y are those of L.
template <class L>
struct frozen {
    static_assert(check_layer<L>());
    using children = leaves<L>;
    using input = input_of<L, float>;

    static constexpr std::string_view name = "frozen";
    static constexpr bool is_frozen = true;
    /// Wrapping a layer adds no level to the names of its parameters (model/transfer.hpp).
    static constexpr bool transparent = true;
    static constexpr index_t in = L::in;
    static constexpr index_t out = L::out;

    static constexpr double flops(double context) { return L::flops(context); }

    template <class T>
    static void forward(context<T>& ctx, param_ref<frozen, const T> w, input_of<L, T> x, matrix_view<T> y) {
        L::template forward<T>(ctx, w.template child<0>(), x, y);
    }
    template <class T>
    static void backward(context<T>& ctx, param_ref<frozen, const T> w, param_ref<frozen, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        L::template backward<T>(ctx, w.template child<0>(), g.template child<0>(), dy, dx);
    }
};

/// Freezes the maps of a layer.
struct as_frozen {
    template <class L>
    using around = frozen<L>;
};

}  // namespace mox::inline MOX_ABI
