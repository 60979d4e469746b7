#pragma once

// Low-rank adapters with a gate in rank space: y = base(x) + s ((x A') * g(x)) B. Every method of the family
// is a gate (route/rank_gate.hpp); with the gate of constant ones this is plain LoRA.

#include <mox/kernel/ranks.hpp>
#include <mox/kernel/sparse_rows.hpp>
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
    static_assert(G::reads_activations || !G::teaches_activations,
                  "mox::lora: a gate that teaches the rank activations must read them");
    return true;
}

template <class G>
consteval bool gate_draws() {
    if constexpr (requires { G::draws; }) return G::draws;
    return false;
}

}  // namespace detail

/// A low-rank adapter around a frozen layer (LoRA, arXiv 2106.09685): y = base(x) + s ((drop(x) A') * g(x))
/// B, with A ranks x in and B ranks x out, both rank by rank, s of the spec (alpha alone for SMoRA, 1 for
/// MoRAM), and g of the gate: tokens x ranks, zero where a rank is not chosen. B starts at zero, so the layer
/// starts as its base. Gates:
///   rank_gate::all               LoRA
///   rank_gate::sigmoid_top_k<K>  SMoRA (arXiv 2501.15103)
///   rank_gate::strongest<K>      FlyLoRA (arXiv 2510.08396)
///   rank_gate::self_activated<K> MoRA, MoRAM (arXiv 2506.21035)
///   rank_gate::balanced<gate>    sigmoid_top_k or self_activated, with a loss for even use
template <class Base, adapter_spec Spec, class Gate = rank_gate::all>
struct lora {
    static_assert(detail::check_adapted<Base>() && check_layer<Base>() && detail::check_rank_gate<Gate>());
    static_assert(Spec.rank > 0, "mox: an adapter needs a positive rank, such as adapter_spec{.rank = 8}");
    static_assert(Spec.dropout >= 0 && Spec.dropout < 1, "mox: the dropout of an adapter must lie in [0, 1)");
    static_assert(Spec.kept_ranks >= 0, "mox::lora: kept_ranks must not be negative");

    using children = leaves<frozen<Base>>;
    using base_type = Base;
    using gate_type = Gate;

    static constexpr std::string_view name = Gate::name;
    static constexpr index_t in = Base::in;
    static constexpr index_t out = Base::out;
    static constexpr index_t kept = Spec.kept_ranks;
    static constexpr index_t ranks = kept + Spec.rank;
    static constexpr bool drops = Spec.dropout > 0;
    static constexpr index_t draw_numbers = (drops ? 1 : 0) + (detail::gate_draws<Gate>() ? 1 : 0);
    static constexpr bool transparent = true;
    static constexpr index_t slots = Gate::template slots<ranks>;
    static_assert(slots <= ranks, "mox::lora: the gate chooses more ranks than the adapter has");
    static constexpr double scale = Gate::scales_by_alpha && Spec.alpha != 0 ? Spec.alpha : Spec.scale();

    /// A is born with few values that are not zero, and never trained.
    static constexpr bool has_row_values = requires { Gate::row_values(in, ranks); };
    static constexpr bool sparse_down = has_row_values && kept == 0 && !Gate::trains_down;

    static constexpr auto parameters = [] {
        constexpr auto own = Gate::template parameters<in, ranks>;
        std::array<parameter, 2 + (kept > 0 ? 2 : 0) + own.size()> all{};
        all[0] = Spec.down("a", 1, in);
        all[0].trained = Gate::trains_down && !Spec.frozen;
        if constexpr (has_row_values) {
            all[0].init = fill::sparse_rows;
            all[0].row_values = Gate::row_values(in, Spec.rank);
            if (sparse_down) all[0].form = storage::sparse_panels;
        }
        all[1] = Spec.up("b", 1, out);
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

    /// Few ranks of many: their rows are picked token by token. From a quarter of the ranks on a plain
    /// product with zeros in it is as fast (bench/end_to_end/lora.cpp).
    static constexpr bool picks = Gate::routed && kept == 0 && 4 * slots <= ranks;
    /// A gate that teaches all activations needs all of them on the way back too.
    static constexpr bool picks_backward = picks && !Gate::teaches_activations;
    /// The rank activations of all ranks are needed.
    static constexpr bool all_activations = !picks || Gate::reads_activations;

    /// Values of A that a token meets.
    static constexpr index_t down_values = [] {
        if constexpr (sparse_down) return ranks * Gate::row_values(in, ranks);
        return (all_activations ? ranks : slots) * in;
    }();

    static constexpr double flops(double context) {
        return Base::flops(context) + 2.0 * static_cast<double>(down_values) +
               2.0 * static_cast<double>((picks ? slots : ranks) * out) + Gate::flops(in, ranks);
    }

    template <class T>
    struct record {
        matrix_view<const T> x;  ///< after dropout
        matrix_view<T> z;        ///< x A', tokens x ranks; empty when only the chosen ones are kept
        const T* picked;         ///< z of the chosen ranks, tokens x slots; null when nobody asks for it
        const simd::placed<T>*
            added;             ///< what is added of which row of B, tokens x slots; null unless picked
        matrix_view<T> state;  ///< the gate's
        const row_t* chosen;   ///< tokens x slots
        const T* weight;       ///< tokens x slots
        dropout_draw drop;
    };

    template <class T>
    static void forward(context<T>& ctx, param_ref<lora, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        record<T> r{};
        r.x = x;
        if constexpr (drops) {
            r.drop = dropout_draw::next(ctx, Spec.dropout);
            if (r.drop.active()) {
                const matrix_view<T> rest = ctx.activation(x.rows, in);
                r.drop.template apply<T>(ctx.exec, x, rest, false);
                r.x = rest;
            }
        }
        if constexpr (picks) {
            forward_picked(ctx, w, r, x, y);
        } else {
            forward_all(ctx, w, r, x, y);
        }
        ctx.save(r);
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<lora, const T> w, param_ref<lora, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto r = ctx.template restore<record<T>>();
        const index_t n = dy.rows;
        frozen<Base>::template backward<T>(ctx, w.template child<0>(), g.template child<0>(), dy, dx);
        const arena_scope scope(*ctx.scratch);
        // The adapter's share of dx passes the dropout again; without dropout it is added where it belongs.
        matrix_view<T> adapter_dx = ctx.input_gradient ? dx : matrix_view<T>{};
        const bool dropped = r.drop.active() && ctx.input_gradient;
        if (dropped) {
            adapter_dx = ctx.temporary(n, in);
            for (index_t t = 0; t < n; ++t) std::fill_n(adapter_dx.row(t), in, T(0));
        }
        if constexpr (picks_backward) {
            backward_picked(ctx, w, g, r, dy, adapter_dx);
        } else {
            backward_all(ctx, w, g, r, dy, adapter_dx);
        }
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
    /// A gradient comes back through the weights.
    static constexpr bool learns_weights = !requires { Gate::constant_weights; };

    // A sparse A whose ranks are chosen by keys that each look at one sum: the choice is made of the sums
    // where they are ready, and of them only the chosen ones are kept. Measured with 8 of 32 ranks, 512
    // tokens of 1024 columns: 0.96 of the time of the layer that writes z first.
    static constexpr bool chooses_from_sums = picks_backward && sparse_down && !learns_weights &&
                                              !detail::gate_draws<Gate>() &&
                                              ranks <= kernel::detail::sparse_height && requires {
        typename Gate::template key_of<float>;
    };

    template <class T>
    static void forward_picked(context<T>& ctx, param_ref<lora, const T> w, record<T>& r,
                               matrix_view<const T> x, matrix_view<T> y) {
        const index_t n = x.rows;
        auto* const chosen = ctx.kept->template take<row_t>(n * slots);
        auto* const weight = ctx.kept->template take<T>(n * slots);
        auto* const added = ctx.saved->template take<simd::placed<T>>(n * slots);
        r.chosen = chosen;
        r.weight = weight;
        r.added = added;
        bool have_chosen = false;
        if constexpr (chooses_from_sums) have_chosen = choose_from_sums(ctx, w, r.x, chosen, weight, added);
        if (!have_chosen) {
            if constexpr (all_activations) {
                r.z = ctx.activation(n, ranks);
                project(ctx, w, r.x, r.z);
            }
            choose(ctx, w, r, chosen, weight);
            T* picked = nullptr;
            if constexpr (!all_activations) {
                r.picked = picked = ctx.saved->template take<T>(n * slots);
                kernel::dot_chosen_rows<T>(ctx.exec, r.x, chosen, slots, w.template panels<0>(), picked);
            } else if constexpr (learns_weights && picks_backward) {
                r.picked = picked = ctx.saved->template take<T>(n * slots);
            }
            parallel_ranges(ctx.exec, n, 64, [&](index_t begin, index_t end) {
                for (index_t i = begin * slots; i < end * slots; ++i) {
                    const row_t rank = chosen[i];
                    T z = 0;
                    if constexpr (!all_activations) {
                        z = picked[i];
                    } else {
                        if (rank >= 0) z = r.z(i / slots, rank);
                        if (picked) picked[i] = z;
                    }
                    // A rank without weight is not used.
                    added[i] = {s<T> * (weight[i] * z), weight[i] == T(0) ? row_t{-1} : rank};
                }
            });
        }
        log_choice(ctx, r);
        frozen<Base>::template forward<T>(ctx, w.template child<0>(), x, y);
        kernel::add_chosen_rows<T>(ctx.exec, added, slots, w.template panels<1>(), y);
    }

    template <class T>
    static void forward_all(context<T>& ctx, param_ref<lora, const T> w, record<T>& r, matrix_view<const T> x,
                            matrix_view<T> y) {
        const index_t n = x.rows;
        r.z = ctx.activation(n, ranks);
        project(ctx, w, r.x, r.z);
        if constexpr (Gate::routed) {
            auto* const chosen = ctx.kept->template take<row_t>(n * slots);
            auto* const weight = ctx.kept->template take<T>(n * slots);
            r.chosen = chosen;
            r.weight = weight;
            choose(ctx, w, r, chosen, weight);
            log_choice(ctx, r);
        }
        frozen<Base>::template forward<T>(ctx, w.template child<0>(), x, y);
        const arena_scope scope(*ctx.scratch);
        const matrix_view<T> u = ctx.temporary(n, ranks);
        weighted(ctx, r, r.z, u);
        if constexpr (kept > 0)
            kernel::dense<T>(ctx.exec, w.template panels<3>(), u.middle_cols(0, kept), y, true);
        kernel::dense<T>(ctx.exec, w.template panels<1>(), u.middle_cols(kept, Spec.rank), y, true);
    }

    template <class T>
    static void choose(context<T>& ctx, param_ref<lora, const T> w, record<T>& r, row_t* chosen, T* weight) {
        r.state =
            Gate::template forward<ranks, T>(ctx, w.tensors().from(gate_tensors), r.x, r.z, chosen, weight);
    }

    // Chooses without z. False when A has no index, or for fewer tokens than a sparse product needs.
    template <class T>
    static bool choose_from_sums(context<T>& ctx, param_ref<lora, const T> w, matrix_view<const T> x,
                                 row_t* chosen, T* weight, simd::placed<T>* added) {
        const auto a = w.template sparse<0>();
        if (!runs_sparse<T>(a, x.rows)) return false;
        const typename Gate::template key_of<T> key{w.tensors().from(gate_tensors)[0]};
        kernel::sparse_sums<T>(ctx.exec, a, x, [=](const auto& sums) {
            for (index_t i = 0; i < sums.count; i += simd::lanes<T>) {
                const T* const at = sums.at + i;
                const index_t first = (sums.t0 + i) * slots;
                kernel::top_set_lanes<slots, ranks, T>(
                    at, sums.pitch, std::min(simd::lanes<T>, sums.count - i), key,
                    [=](index_t lane, int j, row_t rank) {
                        const index_t slot = first + lane * slots + j;
                        chosen[slot] = rank;
                        added[slot] = {s<T> * at[rank * sums.pitch + lane], rank};
                    });
            }
        });
        std::fill_n(weight, x.rows * slots, T(1));
        return true;
    }

    // A loaded A may be anything, also full. With fewer tokens than a register holds the plain product is
    // faster (measured with 1024 and 4096 columns, 8 tokens: 0.9, 0.8 of the time; 16: 1.5, 1.6).
    template <class T>
    static bool runs_sparse(const kernel::sparse_rows<T>& a, index_t tokens) noexcept {
        return tokens >= simd::lanes<T> && a.size() >= 0;
    }

    // z = x A', ranks of earlier tasks first.
    template <class T>
    static void project(context<T>& ctx, param_ref<lora, const T> w, matrix_view<const T> x,
                        matrix_view<T> z) {
        if constexpr (kept > 0) {
            kernel::dense_transposed<T>(ctx.exec, w.template panels<2>(), x, z.middle_cols(0, kept), false);
        }
        if constexpr (sparse_down) {
            const auto a = w.template sparse<0>();
            if (runs_sparse<T>(a, x.rows)) {
                kernel::sparse_transposed<T>(ctx.exec, a, x, z);
                return;
            }
        }
        kernel::dense_transposed<T>(ctx.exec, w.template panels<0>(), x, z.middle_cols(kept, Spec.rank),
                                    false);
    }

    template <class T>
    static constexpr T s = static_cast<T>(scale);

    template <class T>
    static void backward_picked(context<T>& ctx, param_ref<lora, const T> w, param_ref<lora, T> g,
                                const record<T>& r, matrix_view<const T> dy, matrix_view<T> dx) {
        const index_t n = dy.rows;
        T* du = ctx.scratch->template take<T>(n * slots);
        T* dweight = ctx.scratch->template take<T>(n * slots);
        T* u = ctx.scratch->template take<T>(n * slots);
        auto* const dz = dx.data ? ctx.scratch->template take<simd::placed<T>>(n * slots) : nullptr;
        kernel::dot_chosen_rows<T>(ctx.exec, dy, r.chosen, slots, w.template panels<1>(), du);
        parallel_ranges(ctx.exec, n, 64, [&](index_t begin, index_t end) {
            for (index_t i = begin * slots; i < end * slots; ++i) {
                if constexpr (learns_weights) dweight[i] = s<T> * du[i] * r.picked[i];
                u[i] = r.added[i].value;
                du[i] *= s<T> * r.weight[i];
                if (dz) dz[i] = {du[i], r.chosen[i]};
            }
        });
        if (g[1])
            kernel::chosen_rows_gradient<T>(ctx.exec, r.chosen, u, slots, dy, g.template panels<1>(),
                                            ctx.accumulate);
        if constexpr (Gate::trains_down) {
            if (g[0])
                kernel::chosen_rows_gradient<T>(ctx.exec, r.chosen, du, slots, r.x, g.template panels<0>(),
                                                ctx.accumulate);
        }
        Gate::template backward<ranks, T>(ctx, w.tensors().from(gate_tensors), g.tensors().from(gate_tensors),
                                          r.x, r.z, r.state, r.chosen, r.weight, dweight, matrix_view<T>{},
                                          dx);
        if (dz) kernel::add_chosen_rows<T>(ctx.exec, dz, slots, w.template panels<0>(), dx);
    }

    template <class T>
    static void backward_all(context<T>& ctx, param_ref<lora, const T> w, param_ref<lora, T> g,
                             const record<T>& r, matrix_view<const T> dy, matrix_view<T> dx) {
        const index_t n = dy.rows;
        const matrix_view<T> du = ctx.temporary(n, ranks), dz = ctx.temporary(n, ranks);
        if constexpr (kept > 0) {
            kernel::dense_transposed<T>(ctx.exec, w.template panels<3>(), dy, du.middle_cols(0, kept), false);
        }
        kernel::dense_transposed<T>(ctx.exec, w.template panels<1>(), dy, du.middle_cols(kept, Spec.rank),
                                    false);
        if (g[1]) {
            weighted(ctx, r, r.z, dz);  // dz is free until the next line but one
            kernel::dense_weight_gradient<T>(ctx.exec, dz.middle_cols(kept, Spec.rank), dy,
                                             g.template panels<1>(), ctx.accumulate);
        }
        weighted(ctx, r, du, dz);
        if constexpr (Gate::routed) {
            T* dweight = ctx.scratch->template take<T>(n * slots);
            for (index_t i = 0; i < n * slots; ++i) {
                const row_t rank = r.chosen[i];
                dweight[i] = rank < 0 ? T(0) : s<T> * du(i / slots, rank) * r.z(i / slots, rank);
            }
            Gate::template backward<ranks, T>(ctx, w.tensors().from(gate_tensors),
                                              g.tensors().from(gate_tensors), r.x, r.z, r.state, r.chosen,
                                              r.weight, dweight, dz, dx);
        }
        if constexpr (Gate::trains_down) {
            if (g[0])
                kernel::dense_weight_gradient<T>(ctx.exec, dz.middle_cols(kept, Spec.rank), r.x,
                                                 g.template panels<0>(), ctx.accumulate);
        }
        if (!dx.data) return;
        if constexpr (kept > 0)
            kernel::dense<T>(ctx.exec, w.template panels<2>(), dz.middle_cols(0, kept), dx, true);
        kernel::dense<T>(ctx.exec, w.template panels<0>(), dz.middle_cols(kept, Spec.rank), dx, true);
    }

    // to = s g * from, 0 where a rank is not chosen.
    template <class T>
    static void weighted(context<T>& ctx, const record<T>& r, std::type_identity_t<matrix_view<const T>> from,
                         matrix_view<T> to) {
        parallel_ranges(ctx.exec, to.rows, 64, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                if constexpr (Gate::routed) {
                    std::fill_n(to.row(t), ranks, T(0));
                    for (index_t i = t * slots; i < (t + 1) * slots; ++i) {
                        const row_t rank = r.chosen[i];
                        if (rank >= 0) to(t, rank) = s<T> * (r.weight[i] * from(t, rank));
                    }
                } else {
                    for (index_t j = 0; j < ranks; ++j) to(t, j) = s<T> * from(t, j);
                }
            }
        });
    }

    template <class T>
    static void log_choice(context<T>& ctx, const record<T>& r) {
        if (!ctx.routing) return;
        const index_t n = r.x.rows;
        row_t* counts = ctx.kept->template take<row_t>(ranks);
        std::fill_n(counts, ranks, row_t{0});
        for (index_t i = 0; i < n * slots; ++i) {
            if (r.chosen[i] >= 0) ++counts[r.chosen[i]];
        }
        routing_record log;
        log.kind = routing_record::kind_t::experts;
        log.layer = type_id<lora>();
        log.rows = n;
        log.token = ctx.rows.token;
        log.experts = ranks;
        log.slots = slots;
        log.chosen = r.chosen;
        log.gates = r.weight;
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
