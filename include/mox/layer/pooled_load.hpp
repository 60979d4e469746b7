#pragma once

#include <string_view>

#include <mox/core/coefficient.hpp>
#include <mox/kernel/elementwise.hpp>
#include <mox/layer/context.hpp>
#include <mox/route/pooled.hpp>

namespace mox::inline MOX_ABI {

/// y = x, and one balance loss for all routers before it that have balance::pooled or balance::pooled_soft:
/// a E sum_e F_e P_e, where P_e is the mean probability over the tokens of all layers and F_e the mean number
/// of choices of e (they sum to k: MixLoRA, arXiv 2404.15159, whose loss is at least a k), or the mean gate
/// weight (DynMoLE, arXiv 2504.00661). Frequencies of choices are constant in the gradient. E: outputs of
/// the routers.
template <index_t Width, index_t E, coefficient A = coefficient{0.001}>
struct pooled_load {
    static_assert(Width > 0 && E > 0, "mox::pooled_load: width and number of experts must be positive");

    static constexpr std::string_view name = "pooled_load";
    static constexpr index_t in = Width;
    static constexpr index_t out = Width;
    using reads = leaves<signal::routing<E>>;
    using teaches = reads;

    static constexpr double flops(double /*context*/) { return 2.0 * E; }

    template <class T>
    struct record {
        const T* slopes;  ///< d loss / d probability, then d loss / d weight, per output
    };

    template <class T>
    static void forward(context<T>& ctx, param_ref<pooled_load, const T>, matrix_view<const T> x,
                        matrix_view<T> y) {
        T* slopes = ctx.kept->template take<T>(2 * E);
        std::fill_n(slopes, 2 * E, T(0));
        const auto board = ctx.signals->template find<signal::routing<E>>();
        T passed = 0;
        for (index_t t = 0; t < x.rows; ++t) passed += board(ctx.rows.token_of(t), 2 * E);
        if (ctx.training() && passed > T(0)) {
            const T factor = ctx.aux_scale * static_cast<T>(A.value) * static_cast<T>(E) / passed;
            for (index_t e = 0; e < E; ++e) {
                T probability = 0, weight = 0;
                for (index_t t = 0; t < x.rows; ++t) {
                    probability += board(ctx.rows.token_of(t), e);
                    weight += board(ctx.rows.token_of(t), E + e);
                }
                ctx.aux_loss += factor * probability * weight / passed;
                slopes[e] = factor * weight / passed;
                slopes[E + e] = factor * probability / passed;
            }
        }
        kernel::copy_rows<T>(ctx.exec, x, y);
        ctx.save(record<T>{slopes});
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<pooled_load, const T>, param_ref<pooled_load, T>,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto r = ctx.template restore<record<T>>();
        const auto board = ctx.signal_gradients->template find<signal::routing<E>>();
        for (index_t t = 0; t < dy.rows; ++t) {
            for (index_t e = 0; e < 2 * E; ++e) board(ctx.rows.token_of(t), e) += r.slopes[e];
        }
        if (ctx.input_gradient) kernel::copy_rows<T>(ctx.exec, dy, dx);
    }
};

}  // namespace mox::inline MOX_ABI
