#pragma once

// Low-rank adapters with a gate in rank space: y = base(x) + s ((x A') * g(x)) B. Every method of the family
// is a gate (route/rank_gate.hpp); with the gate of constant ones this is plain LoRA.

#include <mox/layer/frozen.hpp>
#include <mox/layer/low_rank.hpp>
#include <mox/route/rank_gate.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

template <class G>
consteval bool check_rank_gate() {
    static_assert(route::detail::is_kind<route::rank_gate_policy, G>(),
                  "mox::lora: the gate must be a rank gate, such as mox::rank_gate::all or "
                  "mox::rank_gate::sigmoid_top_k<8>; experts of several ranks are mox::lora_experts");
    return true;
}

}  // namespace detail

/// A low-rank adapter around a frozen layer (LoRA, arXiv 2106.09685). B starts at zero, so the layer starts
/// as its base. Gates:
///   rank_gate::all               LoRA
///   rank_gate::sigmoid_top_k<K>  SMoRA (arXiv 2501.15103)
///   rank_gate::strongest<K>      FlyLoRA (arXiv 2510.08396)
///   rank_gate::self_activated<K> MoRA, MoRAM (arXiv 2506.21035)
template <class Base, adapter_spec Spec, class Gate = rank_gate::all>
struct lora {
    static_assert(check_layer<Base>() && detail::check_rank_gate<Gate>());
    static_assert(Spec.rank > 0, "mox: an adapter needs a positive rank, such as adapter_spec{.rank = 8}");
    static_assert(Spec.dropout >= 0 && Spec.dropout < 1, "mox: the dropout of an adapter must lie in [0, 1)");
    static_assert(Spec.kept_ranks >= 0, "mox::lora: kept_ranks must not be negative");

    using children = leaves<frozen<Base>>;
    using gate_type = Gate;

    static constexpr std::string_view name = Gate::name;
    static constexpr index_t in = Base::in;
    static constexpr index_t out = Base::out;
    static constexpr index_t kept = Spec.kept_ranks;
    static constexpr index_t ranks = kept + Spec.rank;
    static constexpr bool draws = Spec.dropout > 0;
    static constexpr bool transparent = true;
    static constexpr index_t slots = Gate::template slots<ranks>;
    static_assert(slots <= ranks, "mox::lora: the gate chooses more ranks than the adapter has");
    static constexpr double scale = Gate::scales_by_alpha && Spec.alpha != 0 ? Spec.alpha : Spec.scale();

    static constexpr auto parameters = [] {
        constexpr auto own = Gate::template parameters<in, ranks>;
        std::array<parameter, 2 + (kept > 0 ? 2 : 0) + own.size()> all{};
        all[0] = {.name = "a",
                  .form = storage::panels,
                  .rows = Spec.rank,
                  .cols = in,
                  .init = fill::uniform_cols,
                  .decays = false,
                  .trained = Gate::trains_down};
        all[1] = {.name = "b",
                  .form = storage::panels,
                  .rows = Spec.rank,
                  .cols = out,
                  .init = fill::zeros,
                  .decays = false};
        std::size_t at = 2;
        if constexpr (kept > 0) {
            all[at++] = {.name = "kept_a",
                         .form = storage::panels,
                         .rows = kept,
                         .cols = in,
                         .init = fill::zeros,
                         .trained = false};
            all[at++] = {.name = "kept_b",
                         .form = storage::panels,
                         .rows = kept,
                         .cols = out,
                         .init = fill::zeros,
                         .trained = false};
        }
        for (const parameter& p : own) all[at++] = p;
        return all;
    }();
    static constexpr index_t gate_tensors = kept > 0 ? 4 : 2;

    static constexpr double flops(double context) {
        return Base::flops(context) + 2.0 * static_cast<double>(ranks * in + slots * out) +
               Gate::flops(in, ranks);
    }

    template <class T>
    struct record {
        matrix_view<const T> x;  ///< after dropout
        matrix_view<T> z, g, state;
        const row_t* chosen;
        dropout_draw drop;
    };

    template <class T>
    static void forward(context<T>& ctx, param_ref<lora, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        const index_t n = x.rows;
        record<T> r{};
        r.x = x;
        if constexpr (draws) {
            r.drop = dropout_draw::next(ctx, Spec.dropout);
            if (r.drop.active()) {
                const matrix_view<T> rest = ctx.activation(n, in);
                r.drop.template apply<T>(ctx.exec, x, rest, false);
                r.x = rest;
            }
        }
        r.z = ctx.activation(n, ranks);
        project(ctx, w, r.x, r.z);
        if constexpr (Gate::routed) {
            r.g = ctx.activation(n, ranks);
            for (index_t t = 0; t < n; ++t) std::fill_n(r.g.row(t), ranks, T(0));
            row_t* chosen = ctx.kept->template take<row_t>(n * slots);
            r.state = Gate::template forward<T>(ctx, w.tensors().from(gate_tensors), r.x, r.z, chosen, r.g);
            r.chosen = chosen;
            log_choice(ctx, r);
        }
        frozen<Base>::template forward<T>(ctx, w.template child<0>(), x, y);
        const arena_scope scope(*ctx.scratch);
        const matrix_view<T> u = ctx.temporary(n, ranks);
        weighted(ctx, r, r.z, u);
        if constexpr (kept > 0)
            kernel::dense<T>(ctx.exec, w.template panels<3>(), u.middle_cols(0, kept), y, true);
        kernel::dense<T>(ctx.exec, w.template panels<1>(), u.middle_cols(kept, Spec.rank), y, true);
        ctx.save(r);
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<lora, const T> w, param_ref<lora, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto r = ctx.template restore<record<T>>();
        const index_t n = dy.rows;
        frozen<Base>::template backward<T>(ctx, w.template child<0>(), g.template child<0>(), dy, dx);
        const arena_scope scope(*ctx.scratch);
        const matrix_view<T> du = ctx.temporary(n, ranks), dz = ctx.temporary(n, ranks);
        if constexpr (kept > 0) {
            kernel::dense_transposed<T>(ctx.exec, w.template panels<3>(), dy, du.middle_cols(0, kept), false);
        }
        kernel::dense_transposed<T>(ctx.exec, w.template panels<1>(), dy, du.middle_cols(kept, Spec.rank),
                                    false);
        if (g) {
            weighted(ctx, r, r.z, dz);  // dz is free until the next line but one
            kernel::dense_weight_gradient<T>(ctx.exec, dz.middle_cols(kept, Spec.rank), dy,
                                             g.template panels<1>(), ctx.accumulate);
        }
        weighted(ctx, r, du, dz);
        // The adapter's share of dx passes the dropout again; without dropout it is added where it belongs.
        matrix_view<T> adapter_dx = ctx.input_gradient ? dx : matrix_view<T>{};
        const bool dropped = r.drop.active() && ctx.input_gradient;
        if (dropped) {
            adapter_dx = ctx.temporary(n, in);
            for (index_t t = 0; t < n; ++t) std::fill_n(adapter_dx.row(t), in, T(0));
        }
        if constexpr (Gate::routed) {
            const matrix_view<T> dg = ctx.temporary(n, ranks);
            for (index_t t = 0; t < n; ++t) {
                for (index_t j = 0; j < ranks; ++j) dg(t, j) = static_cast<T>(scale) * du(t, j) * r.z(t, j);
            }
            Gate::template backward<T>(ctx, w.tensors().from(gate_tensors), g.tensors().from(gate_tensors),
                                       r.x, r.z, r.state, r.chosen, r.g, dg, dz, adapter_dx);
        }
        if (g[0]) {
            kernel::dense_weight_gradient<T>(ctx.exec, dz.middle_cols(kept, Spec.rank), r.x,
                                             g.template panels<0>(), ctx.accumulate);
        }
        if (!ctx.input_gradient) return;
        if constexpr (kept > 0) {
            kernel::dense<T>(ctx.exec, w.template panels<2>(), dz.middle_cols(0, kept), adapter_dx, true);
        }
        kernel::dense<T>(ctx.exec, w.template panels<0>(), dz.middle_cols(kept, Spec.rank), adapter_dx, true);
        if (dropped) r.drop.template apply<T>(ctx.exec, adapter_dx, dx, true);
    }

    /// Moves the selection bias by the choices of a step (mox::update_selection_bias).
    template <class T>
    static void update_bias(param_ref<lora, T> w, const routing_record& r) {
        if constexpr (requires { Gate::bias_tensor; }) {
            rank_gate::detail::update_selection_bias(w[gate_tensors + Gate::bias_tensor], r.counts, ranks,
                                                     Gate::bias_rate);
        }
    }

private:
    // z = x A', ranks of earlier tasks first.
    template <class T>
    static void project(context<T>& ctx, param_ref<lora, const T> w, matrix_view<const T> x,
                        matrix_view<T> z) {
        if constexpr (kept > 0) {
            kernel::dense_transposed<T>(ctx.exec, w.template panels<2>(), x, z.middle_cols(0, kept), false);
        }
        kernel::dense_transposed<T>(ctx.exec, w.template panels<0>(), x, z.middle_cols(kept, Spec.rank),
                                    false);
    }

    // to = s g * from.
    template <class T>
    static void weighted(context<T>& ctx, const record<T>& r, std::type_identity_t<matrix_view<const T>> from,
                         matrix_view<T> to) {
        constexpr T s = static_cast<T>(scale);
        parallel_ranges(ctx.exec, to.rows, 64, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                for (index_t j = 0; j < ranks; ++j) {
                    if constexpr (Gate::routed) {
                        to(t, j) = r.g(t, j) == T(0) ? T(0) : s * (r.g(t, j) * from(t, j));
                    } else {
                        to(t, j) = s * from(t, j);
                    }
                }
            }
        });
    }

    template <class T>
    static void log_choice(context<T>& ctx, const record<T>& r) {
        if (!ctx.routing) return;
        const index_t n = r.z.rows;
        row_t* counts = ctx.kept->template take<row_t>(ranks);
        std::fill_n(counts, ranks, row_t{0});
        T* gates = ctx.kept->template take<T>(n * slots);
        for (index_t i = 0; i < n * slots; ++i) {
            ++counts[r.chosen[i]];
            gates[i] = r.g(i / slots, r.chosen[i]);
        }
        routing_record log;
        log.kind = routing_record::kind_t::experts;
        log.layer = type_id<lora>();
        log.rows = n;
        log.token = ctx.rows.token;
        log.experts = ranks;
        log.slots = slots;
        log.chosen = r.chosen;
        log.gates = gates;
        log.gates_are_double = std::is_same_v<T, double>;
        log.counts = counts;
        ctx.routing->push_back(log);
    }
};

/// Wraps the maps of a layer: attention<spec, mask::causal, with_lora<r8>>.
template <adapter_spec Spec, class Gate = rank_gate::all>
struct with_lora {
    template <class L>
    using around = lora<L, Spec, Gate>;
};

}  // namespace mox::inline MOX_ABI
