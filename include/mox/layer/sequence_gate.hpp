#pragma once

#include <mox/kernel/elementwise.hpp>
#include <mox/layer/context.hpp>
#include <mox/route/sequence_max_linear.hpp>
#include <mox/route/shared_decision.hpp>

namespace mox::inline MOX_ABI {

/// y = x, and on the way one decision per sequence among E experts: logit_e = max over the sequence's tokens
/// of x_t R_e (SteloCoder, arXiv 2310.15539). It stands behind the embeddings; all layers behind it with
/// route::shared_decision<E> follow it, with route::hard_inference all experts in training and one in
/// inference. A stream never holds the whole sequence: mox::decode throws mox::error.
template <index_t Width, index_t E>
struct sequence_gate {
    static_assert(Width > 0 && E > 0, "mox::sequence_gate: width and number of experts must be positive");

    static constexpr std::string_view name = "sequence_gate";
    static constexpr index_t in = Width;
    static constexpr index_t out = Width;
    using publishes = leaves<signal::decision<E>>;

    static constexpr std::array parameters{
        parameter{.name = "router", .form = storage::panels, .rows = Width, .cols = E, .init = fill::small}};
    static constexpr double flops(double /*context*/) { return 2.0 * Width * E; }

    template <class T>
    struct record {
        matrix_view<const T> x;
        const row_t* best;  ///< sequences x E: the token of each maximum
    };

    template <class T>
    static void forward(context<T>& ctx, param_ref<sequence_gate, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        check::that(!ctx.decoding(), "mox::decode",
                    "mox::sequence_gate scores whole sequences, a stream never holds one; use mox::infer");
        record<T> r{x, nullptr};
        if (const matrix_view<T> board = find(ctx.signals); board.data) {
            row_t* best = ctx.saved->template take<row_t>(ctx.rows.sequences * E);
            const arena_scope scope(*ctx.scratch);
            const matrix_view<T> logits = ctx.temporary(x.rows, E);
            route::sequence_max_linear::forward<T>(ctx.exec, w.template panels<0>(), x, ctx.rows.offsets,
                                                   ctx.rows.sequences, logits, best);
            for (index_t t = 0; t < x.rows; ++t)
                std::copy_n(logits.row(t), E, board.row(ctx.rows.token_of(t)));
            r.best = best;
        }
        kernel::copy_rows<T>(ctx.exec, x, y);
        ctx.save(r);
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<sequence_gate, const T> w, param_ref<sequence_gate, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto r = ctx.template restore<record<T>>();
        if (ctx.input_gradient) kernel::copy_rows<T>(ctx.exec, dy, dx);
        const matrix_view<T> board = find(ctx.signal_gradients);
        if (!board.data || !r.best) {
            if (g[0] && !ctx.accumulate) std::fill_n(g[0], g.template panels<0>().size(), T(0));
            return;
        }
        const arena_scope scope(*ctx.scratch);
        const matrix_view<T> dlogits = ctx.temporary(dy.rows, E);
        for (index_t t = 0; t < dy.rows; ++t) {
            // Taken, so that an earlier gate of the same network finds its own readers' share only.
            T* from = board.row(ctx.rows.token_of(t));
            std::copy_n(from, E, dlogits.row(t));
            std::fill_n(from, E, T(0));
        }
        route::sequence_max_linear::backward<T>(ctx.exec, w.template panels<0>(), g.template panels<0>(), r.x,
                                                ctx.rows.offsets, ctx.rows.sequences, r.best, dlogits, dx,
                                                ctx.accumulate, ctx.input_gradient);
    }

private:
    template <class T>
    static matrix_view<T> find(const signal_board<T>* board) {
        return board ? board->template find<signal::decision<E>>() : matrix_view<T>{};
    }
};

}  // namespace mox::inline MOX_ABI
