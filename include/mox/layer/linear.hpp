#pragma once

#include <mox/kernel/elementwise.hpp>
#include <mox/kernel/grouped.hpp>
#include <mox/layer/context.hpp>

namespace mox::inline MOX_ABI {

/// Whether a layer has additive vectors.
enum class bias { none, with };

/// y = x W (+ b). x: tokens x In, y: tokens x Out.
template <index_t In, index_t Out, bias Bias = bias::none>
struct linear {
    static_assert(In > 0 && Out > 0, "mox::linear: both widths must be positive");

    static constexpr std::string_view name = "linear";
    static constexpr index_t in = In;
    static constexpr index_t out = Out;

    static constexpr auto parameters = [] {
        constexpr parameter weight{.name = "weight", .form = storage::panels, .rows = In, .cols = Out};
        if constexpr (Bias == bias::with) {
            return std::array{weight, parameter{.name = "bias", .cols = Out, .init = fill::zeros, .decays = false}};
        } else {
            return std::array{weight};
        }
    }();

    /// Forward floating point operations per token; the context is the mean number of visible tokens.
    static constexpr double flops(double /*context*/) { return 2.0 * In * Out; }

    template <class T>
    struct record {
        matrix_view<const T> x;
    };

    template <class T>
    static void forward(context<T>& ctx, param_ref<linear, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        const row_t whole[2] = {0, static_cast<row_t>(x.rows)};
        kernel::grouped_product_to_tokens<T>(ctx.exec, {whole, 1}, nullptr, kernel::row_source(x),
                                             static_cast<const T*>(nullptr),
                                             kernel::panel_stack<const T>{w.template panels<0>()}, y, false);
        if constexpr (Bias == bias::with) kernel::add_vector_rows<T>(ctx.exec, w[1], y);
        ctx.save(record<T>{x});
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<linear, const T> w, param_ref<linear, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto saved = ctx.template restore<record<T>>();
        const row_t whole[2] = {0, static_cast<row_t>(dy.rows)};
        kernel::grouped_weight_gradient<T>(ctx.exec, {whole, 1}, kernel::row_source(saved.x),
                                           kernel::row_source(dy), Out,
                                           kernel::panel_stack<T>{g.template panels<0>()}, ctx.accumulate);
        if constexpr (Bias == bias::with) kernel::sum_columns<T>(ctx.exec, dy, g[1], ctx.accumulate);
        if (ctx.input_gradient) {
            kernel::grouped_transposed_to_tokens<T>(ctx.exec, {whole, 1}, nullptr, kernel::row_source(dy), Out,
                                                    kernel::panel_stack<const T>{w.template panels<0>()}, dx,
                                                    false);
        }
    }
};

}  // namespace mox::inline MOX_ABI
