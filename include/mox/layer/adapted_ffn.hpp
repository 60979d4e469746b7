#pragma once

#include <mox/kernel/activation.hpp>
#include <mox/layer/adapt.hpp>
#include <mox/layer/linear.hpp>

namespace mox::inline MOX_ABI {

/// The feed-forward network of mox::gated_ffn, or of mox::mlp when not `Gated`, with its two maps wrapped,
/// for adapters on each of them: adapted_ffn<D, H, activation::silu, with_lora<r8>> takes over the tensors of
/// swiglu<D, H> (mox::copy_matching). The first map of a gated network has the gate columns and behind them
/// the up columns. Biases belong to the network: they are trained when its maps are as they are.
template <index_t D, index_t H, class Act, class Adapter, bool Gated = true, bias Bias = bias::none>
struct adapted_ffn {
    static_assert(D > 0 && H > 0, "mox::adapted_ffn: both widths must be positive");
    static_assert(!Gated || Bias == bias::none, "mox::adapted_ffn: a gated network has no biases");
    static_assert(detail::check_adapter<Adapter>());

    static constexpr std::string_view name = "adapted_ffn";
    static constexpr index_t in = D;
    static constexpr index_t out = D;
    static constexpr bool biased = Bias == bias::with;
    static constexpr index_t front = Gated ? 2 * H : H;  ///< columns of the first map
    using first_map =
        typename std::conditional_t<Gated, detail::around_fused<Adapter, linear<D, front>, H, H>,
                                    detail::around_fused<Adapter, linear<D, front>, H>>::type;
    using second_map = typename Adapter::template around<linear<H, D, bias::none, true>>;
    using children = leaves<first_map, second_map>;
    static constexpr std::array<std::string_view, 2> child_names{Gated ? "gate_up" : "up", "down"};

    static constexpr auto parameters = [] {
        if constexpr (biased) {
            constexpr auto of = [](std::string_view tensor, index_t width) {
                return parameter{.name = tensor,
                                 .form = storage::rows,
                                 .cols = width,
                                 .init = fill::zeros,
                                 .decays = false,
                                 .trained = trains_maps<Adapter>};
            };
            return std::array{of("up_bias", H), of("down_bias", D)};
        } else {
            return std::array<parameter, 0>{};
        }
    }();

    static constexpr double flops(double context) {
        return first_map::flops(context) + second_map::flops(context);
    }

    template <class T>
    static void forward(context<T>& ctx, param_ref<adapted_ffn, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        const matrix_view<T> pre = ctx.activation(x.rows, front), hidden = ctx.activation(x.rows, H);
        first_map::template forward<T>(ctx, w.template child<0>(), x, pre);
        if constexpr (biased) kernel::add_vector_rows<T>(ctx.exec, w[0], pre);
        for_each_unit(ctx, x.rows, [&](index_t t, index_t j, index_t n) {
            const T* from = pre.row(t);
            auto unit = Act::value(simd::load_upto<T, simd::default_arch>(from + j, n));
            if constexpr (Gated) unit = unit * simd::load_upto<T, simd::default_arch>(from + H + j, n);
            simd::store_upto(hidden.row(t) + j, unit, n);
        });
        second_map::template forward<T>(ctx, w.template child<1>(), hidden, y);
        if constexpr (biased) kernel::add_vector_rows<T>(ctx.exec, w[1], y);
        ctx.save(pre);
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<adapted_ffn, const T> w, param_ref<adapted_ffn, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto pre = ctx.template restore<matrix_view<T>>();
        const arena_scope scope(*ctx.scratch);
        const matrix_view<T> dhidden = ctx.temporary(dy.rows, H), dpre = ctx.temporary(dy.rows, front);
        if constexpr (biased) {
            if (g[1]) kernel::sum_columns<T>(ctx.exec, dy, g[1], ctx.accumulate);
        }
        const bool wanted = ctx.input_gradient;
        ctx.input_gradient = true;
        second_map::template backward<T>(ctx, w.template child<1>(), g.template child<1>(), dy, dhidden);
        ctx.input_gradient = wanted;
        for_each_unit(ctx, dy.rows, [&](index_t t, index_t j, index_t n) {
            const T* from = pre.row(t);
            T* to = dpre.row(t);
            const auto a = simd::load_upto<T, simd::default_arch>(from + j, n);
            auto d = simd::load_upto<T, simd::default_arch>(dhidden.row(t) + j, n);
            if constexpr (Gated) {
                simd::store_upto(to + H + j, d * Act::value(a), n);
                d = d * simd::load_upto<T, simd::default_arch>(from + H + j, n);
            }
            simd::store_upto(to + j, d * Act::derivative(a), n);
        });
        if constexpr (biased) {
            if (g[0]) kernel::sum_columns<T>(ctx.exec, dpre, g[0], ctx.accumulate);
        }
        first_map::template backward<T>(ctx, w.template child<0>(), g.template child<0>(), dpre, dx);
    }

private:
    // body(row, first unit, units of one register)
    template <class T, class Body>
    static void for_each_unit(context<T>& ctx, index_t rows, Body&& body) {
        parallel_ranges(ctx.exec, rows, 32, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                for (index_t j = 0; j < H; j += simd::lanes<T>) body(t, j, std::min(simd::lanes<T>, H - j));
            }
        });
    }
};

/// The network of two maps, mox::mlp, with each of them wrapped.
template <index_t D, index_t H, class Act, class Adapter, bias Bias = bias::none>
using adapted_mlp = adapted_ffn<D, H, Act, Adapter, false, Bias>;

}  // namespace mox::inline MOX_ABI
