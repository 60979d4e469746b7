#pragma once

// What a layer is. Checked piece by piece, so that the compiler's first line says what is missing.
//
//   struct my_layer {
//       static constexpr index_t in, out;              widths
//       static constexpr std::array parameters{...};   own tensors (leave out when there are none)
//       using children = leaves<...>;                  layers inside (leave out when there are none)
//       using publishes / reads = leaves<...>;         signals (leave out when there are none)
//       using teaches = leaves<...>;                   read signals whose gradient backward adds to its board
//       static constexpr double flops(double context);
//       template <class T> static void forward(context<T>&, param_ref<my_layer, const T> w,
//                                              matrix_view<const T> x, matrix_view<T> y);
//       template <class T> static void backward(context<T>&, param_ref<my_layer, const T> w,
//                                               param_ref<my_layer, T> g, matrix_view<const T> dy,
//                                               matrix_view<T> dx);
//   };
//
// forward writes all of y; x stays valid until backward and may be saved as a view, y may not. It ends with
// one ctx.save(record), after those of its children; backward begins with the matching ctx.restore.
// backward writes all gradients of the layer (adds to them when ctx.accumulate), also for no rows, and
// overwrites dx unless ctx.input_gradient is false (then dx is empty). Layers hold no state of their own. One
// that does not run its children in a pass adds state_count (when decoding), draw_count and observed_count of
// them to ctx.next_state, next_draw and next_observed, as mox::depth does.

#include <concepts>

#include <mox/layer/context.hpp>
#include <mox/layer/embedding.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

template <class L>
constexpr bool takes_ids() {
    if constexpr (requires { typename L::input; }) {
        return std::is_same_v<typename L::input, token_ids>;
    } else {
        return false;
    }
}

}  // namespace detail

/// What layer L reads: rows of a matrix, or token ids.
template <class L, class T>
using input_of = std::conditional_t<detail::takes_ids<L>(), token_ids, matrix_view<const T>>;

template <class L>
consteval bool check_layer() {
    static_assert(
        requires {
            { L::in } -> std::convertible_to<index_t>;
        },
        "mox: a layer needs its input width, 'static constexpr index_t in'");
    static_assert(
        requires {
            { L::out } -> std::convertible_to<index_t>;
        },
        "mox: a layer needs its output width, 'static constexpr index_t out'");
    static_assert(
        requires {
            { L::flops(1.0) } -> std::convertible_to<double>;
        },
        "mox: a layer needs 'static constexpr double flops(double context)', its forward operations "
        "per token");
    static_assert(
        requires(context<float> & c, param_ref<L, const float> w, input_of<L, float> x,
                 matrix_view<float> y) { L::template forward<float>(c, w, x, y); },
        "mox: a layer needs 'template <class T> static void forward(context<T>&, param_ref<layer, "
        "const T>, matrix_view<const T> x, matrix_view<T> y)'");
    static_assert(
        requires(context<float> & c, param_ref<L, const float> w, param_ref<L, float> g,
                 matrix_view<const float> dy,
                 matrix_view<float> dx) { L::template backward<float>(c, w, g, dy, dx); },
        "mox: a layer needs 'template <class T> static void backward(context<T>&, param_ref<layer, "
        "const T> w, param_ref<layer, T> g, matrix_view<const T> dy, matrix_view<T> dx)'");
    return true;
}

}  // namespace mox::inline MOX_ABI
