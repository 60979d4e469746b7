#pragma once

#include <mox/kernel/dense.hpp>
#include <mox/kernel/elementwise.hpp>
#include <mox/layer/context.hpp>
#include <mox/layer/packed.hpp>

namespace mox::inline MOX_ABI {

/// Whether a layer has additive vectors.
enum class bias { none, with };

/// y = x W (+ b). x: tokens x In, y: tokens x Out. `WritesResidual`: the result is added to a residual
/// stream, for initial values that keep the stream's size. `Weight`: the format of W; with one of fewer bits
/// (weight::bf16, weight::int8<>, weight::int4<>) the layer is for inference and is not trained.
template <index_t In, index_t Out, bias Bias = bias::none, bool WritesResidual = false,
          class Weight = weight::f32>
struct linear {
    static_assert(In > 0 && Out > 0, "mox::linear: both widths must be positive");

    static constexpr std::string_view name = "linear";
    static constexpr index_t in = In;
    static constexpr index_t out = Out;
    static constexpr bool packed = kernel::is_packed<Weight>;

    static constexpr auto parameters = [] {
        constexpr parameter map = detail::stored_as<Weight>({.name = "weight",
                                                             .form = storage::panels,
                                                             .rows = In,
                                                             .cols = Out,
                                                             .writes_residual = WritesResidual});
        if constexpr (Bias == bias::with) {
            return std::array{
                map,
                parameter{
                    .name = "bias", .cols = Out, .init = fill::zeros, .decays = false, .trained = !packed}};
        } else {
            return std::array{map};
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
        if constexpr (packed) {
            detail::packed_dense<Weight, T>(ctx, w[0], x, y);
        } else {
            kernel::dense<T>(ctx.exec, w.template panels<0>(), x, y);
        }
        if constexpr (Bias == bias::with) kernel::add_vector_rows<T>(ctx.exec, w[1], y);
        ctx.save(record<T>{x});
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<linear, const T> w, param_ref<linear, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto saved = ctx.template restore<record<T>>();
        if constexpr (packed) {
            if (ctx.input_gradient) detail::packed_dense_transposed<Weight, T>(ctx, w[0], dy, dx);
            return;
        } else if (g) {
            kernel::dense_weight_gradient<T>(ctx.exec, saved.x, dy, g.template panels<0>(), ctx.accumulate);
            if constexpr (Bias == bias::with) kernel::sum_columns<T>(ctx.exec, dy, g[1], ctx.accumulate);
        }
        if constexpr (!packed) {
            if (ctx.input_gradient)
                kernel::dense_transposed<T>(ctx.exec, w.template panels<0>(), dy, dx, false);
        }
    }
};

}  // namespace mox::inline MOX_ABI
