#pragma once

// The routing of one layer, forward and backward: scorer -> selector -> gate -> plan, and the auxiliary
// losses. What the chosen experts compute is the business of the layer that owns the router.

#include <mox/kernel/dot.hpp>
#include <mox/kernel/softmax.hpp>
#include <mox/layer/context.hpp>
#include <mox/route/balance.hpp>
#include <mox/route/capacity.hpp>
#include <mox/route/gate.hpp>
#include <mox/route/linear_scorer.hpp>
#include <mox/route/null_experts.hpp>
#include <mox/route/plan.hpp>
#include <mox/route/pooled.hpp>
#include <mox/route/top_k.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

template <class P>
consteval bool check_moe_policy() {
    static_assert(
        route::is_any_kind<P, route::scorer_policy, route::selector_policy, route::gate_policy,
                           route::nulls_policy, route::capacity_policy, route::balance_policy,
                           route::pool_policy, route::shared_policy>,
        "mox::moe: this argument is not a routing policy; expected a selector (route::top_k), scorer, "
        "gate, null_experts, capacity or balance policy, or mox::shared (in mox::moe only)");
    return true;
}

// A balance loss whose gradient is right with one gate only names it: counts_on.
template <class Balance, class Gate>
consteval bool check_balance() {
    if constexpr (requires { typename Balance::counts_on; })
        static_assert(std::is_same_v<typename Balance::counts_on, Gate>,
                      "mox::moe: a balance loss counts on another gate (its counts_on): "
                      "mox::balance::soft_load on mox::gate::softmax");
    return true;
}

template <class Gate, class... Balances>
consteval bool check_balances(leaves<Balances...>) {
    return (check_balance<Balances, Gate>() && ... && true);
}

// The scorer of a router that is given none.
template <class Selector>
struct scorer_for {
    using type = route::linear_scorer;
};
template <class Selector>
requires requires { typename Selector::scorer; }
struct scorer_for<Selector> {
    using type = typename Selector::scorer;
};

template <class Scorer>
auto signals_of_scorer() {
    if constexpr (requires { typename Scorer::reads; }) {
        return typename Scorer::reads{};
    } else {
        return leaves<>{};
    }
}

template <class Scorer, class T>
auto record_of_scorer() {
    if constexpr (requires { typename Scorer::template record<T>; }) {
        return typename Scorer::template record<T>{};
    } else {
        return std::byte{};
    }
}

}  // namespace detail

/// Routes rows of width `In` to `Experts` experts. Policies in any order: one selector (route::top_k<k>); and
/// optionally a scorer (default route::linear_scorer), a gate (default gate::renormalised), null_experts<M>,
/// a capacity (default capacity::dropless), any number of balance losses.
template <index_t In, index_t Experts, class... Policies>
struct router {
    static_assert(route::all_of_kind<route::selector_policy, Policies...>::size == 1,
                  "mox::moe: exactly one selector is needed, such as mox::route::top_k<2>");
    static_assert((detail::check_moe_policy<Policies>() && ... && true));
    static_assert(route::all_of_kind<route::scorer_policy, Policies...>::size <= 1,
                  "mox::moe: at most one scorer can be given");
    static_assert(route::all_of_kind<route::gate_policy, Policies...>::size <= 1,
                  "mox::moe: at most one gate policy can be given");
    static_assert(route::all_of_kind<route::nulls_policy, Policies...>::size <= 1,
                  "mox::moe: at most one null_experts policy can be given");
    static_assert(route::all_of_kind<route::pool_policy, Policies...>::size <= 1,
                  "mox::moe: at most one pooled loss can be given");
    static_assert(route::all_of_kind<route::capacity_policy, Policies...>::size <= 1,
                  "mox::moe: at most one capacity policy can be given");

    using selector = typename route::all_of_kind<route::selector_policy, Policies...>::template at<0>;
    using gate_type = route::one_of_kind<route::gate_policy, gate::renormalised, Policies...>;
    using scorer =
        route::one_of_kind<route::scorer_policy, typename detail::scorer_for<selector>::type, Policies...>;
    using nulls = route::one_of_kind<route::nulls_policy, null_experts<0>, Policies...>;
    using capacity_type = route::one_of_kind<route::capacity_policy, capacity::dropless, Policies...>;
    using pool = route::one_of_kind<route::pool_policy, void, Policies...>;
    static constexpr bool pools = !std::is_void_v<pool>;
    static constexpr bool limits_sequences = requires { capacity_type::most; };
    static constexpr bool passes_tokens = [] {
        if constexpr (limits_sequences) return capacity_type::passes_tokens;
        return false;
    }();
    using balances = route::all_of_kind<route::balance_policy, Policies...>;
    static_assert(detail::check_balances<gate_type>(balances{}));

    static constexpr index_t experts = Experts;
    static constexpr index_t null_count = nulls::count;
    static constexpr index_t outputs = experts + null_count;
    static constexpr index_t slots = route::slots_of<selector, outputs>;
    static_assert(slots <= outputs, "mox::moe: the selector chooses more experts than there are");

    /// Selectors read the logits, or the whole view; those that look at probabilities say so.
    static constexpr bool selects_by_probability = requires { selector::needs_probability; };
    static constexpr bool selects_by_view =
        requires(executor_ref exec, const route::router_view<float>& view, row_t* chosen) {
        selector::template select<float>(exec, view, chosen);
    };

    /// Scorers are linear in rows one by one, linear in whole sequences, or anything with tensors of its own.
    static constexpr bool scores_sequences = requires { scorer::per_sequence; };
    static constexpr bool scores_freely = requires { scorer::template parameters<In, outputs>; };

    /// The scorer's tensors.
    static constexpr auto tensors = [] {
        if constexpr (scores_freely) {
            return scorer::template parameters<In, outputs>;
        } else {
            parameter linear{.name = scorer::name,
                             .form = storage::panels,
                             .rows = In,
                             .cols = outputs,
                             .init = fill::small};
            if constexpr (requires { scorer::init; }) linear.init = scorer::init;
            if constexpr (requires { scorer::trained; }) linear.trained = scorer::trained;
            return std::array{linear};
        }
    }();
    static constexpr index_t tensor_count = static_cast<index_t>(tensors.size());
    static constexpr bool draws = requires { scorer::draws; };
    using reads = decltype(detail::signals_of_scorer<scorer>());
    using publishes = std::conditional_t<pools, leaves<signal::routing<outputs>>, leaves<>>;

    static constexpr double flops = [] {
        if constexpr (requires { scorer::template flops<In, outputs>; }) {
            return scorer::template flops<In, outputs>;
        } else {
            return 2.0 * In * outputs;
        }
    }();
    /// Mean true experts per token when the router is balanced.
    static constexpr double mean_experts = static_cast<double>(slots) * experts / outputs;

    template <class T>
    using scorer_record = decltype(detail::record_of_scorer<scorer, T>());

    template <class T>
    struct record {
        matrix_view<const T> x;
        route::router_view<T> view;
        route::plan<T> plan;
        const row_t* best = nullptr;  ///< of linear maxima over sequences: where each logit comes from
        scorer_record<T> scored = {};
        const row_t* admitted = nullptr;  ///< tokens x slots: the chosen ones without those dropped
        bool auxiliary = false;
    };

    /// `layer`: whose statistics these are.
    template <class T>
    static record<T> forward(context<T>& ctx, tensor_list<const T> w, matrix_view<const T> x,
                             const void* layer) {
        const index_t n = x.rows;
        const bool auxiliary = ctx.mode == phase::train && (balances::size > 0 || pools);

        record<T> r{x, {}, {}, nullptr, {}, nullptr, auxiliary};
        const matrix_view<T> logits = ctx.activation(n, outputs);
        if constexpr (scores_sequences) {
            check::that(!ctx.decoding(), "mox::decode",
                        "this router scores whole sequences, a stream never holds one; use mox::infer");
        }
        if constexpr (scores_freely) {
            r.scored = scorer::template forward<In, outputs, T>(ctx, w, x, logits);
        } else if constexpr (scores_sequences) {
            row_t* best = ctx.saved->template take<row_t>(ctx.rows.sequences * outputs);
            scorer::template forward<T>(ctx.exec, panels(w[0]), x, ctx.rows.offsets, ctx.rows.sequences,
                                        logits, best);
            r.best = best;
        } else {
            scorer::template forward<T>(ctx.exec, panels(w[0]), x, logits);
        }
        r.view.logits = logits;
        if (gate_type::needs_probability || selects_by_probability || auxiliary) {
            const matrix_view<T> p = ctx.activation(n, outputs);
            T* lse = ctx.saved->template take<T>(n);
            kernel::softmax_rows<T>(ctx.exec, logits, p, lse);
            r.view.probability = p;
            r.view.log_sum_exp = lse;
        }
        r.view.sequence_offsets = ctx.rows.offsets;
        r.view.sequence_labels = ctx.rows.labels;
        r.view.allowed = ctx.rows.allowed;
        r.view.sequences = ctx.rows.sequences;
        r.view.experts = experts;
        r.view.slots = slots;
        r.view.training = ctx.training();
        row_t* chosen = ctx.kept->template take<row_t>(n * slots);
        if constexpr (selects_by_view) {
            selector::template select<T>(ctx.exec, r.view, chosen);
        } else {
            selector::template select<T>(ctx.exec, logits, chosen);
        }
        r.view.chosen = chosen;

        T* gates = ctx.kept->template take<T>(n * slots);
        parallel_ranges(ctx.exec, n, 256, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) gate_type::forward(r.view, t, gates + t * slots);
        });
        r.view.gate = gates;

        row_t* admitted = chosen;
        if constexpr (capacity_type::limited) {
            admitted = ctx.kept->template take<row_t>(n * slots);
            std::copy_n(chosen, n * slots, admitted);
        }
        [[maybe_unused]] index_t dropped = 0;
        if constexpr (limits_sequences) {
            const arena_scope scope(*ctx.scratch);
            dropped = capacity_type::admit(ctx.rows.offsets, ctx.rows.sequences, slots, experts, admitted,
                                           ctx.scratch->template take<row_t>(experts));
        }
        r.plan = route::make_plan<T>(*ctx.kept, n, slots, experts, outputs, admitted, gates,
                                     capacity_type::limit(n, slots, experts));
        if constexpr (limits_sequences) {
            row_t* counts = ctx.kept->template take<row_t>(outputs);
            std::fill_n(counts, outputs, row_t{0});
            for (index_t i = 0; i < n * slots; ++i) {
                if (chosen[i] >= 0) ++counts[chosen[i]];
            }
            r.plan.counts = counts;
            r.plan.dropped = dropped;
        }
        r.admitted = admitted;
        r.view.counts = r.plan.counts;

        if (auxiliary) {
            T sum = 0;
            for_each_index<balances::size>(
                [&](auto i) { sum += balances::template at<i>::template value<T>(r.view); });
            ctx.aux_loss += ctx.aux_scale * sum;
            if constexpr (pools) leave_for_pool(ctx, r);
        }
        if (ctx.routing) {
            routing_record log;
            log.kind = routing_record::kind_t::experts;
            log.layer = layer;
            log.rows = n;
            log.token = ctx.rows.token;
            log.experts = experts;
            log.nulls = null_count;
            log.slots = slots;
            log.chosen = admitted;
            log.gates = gates;
            log.gates_are_double = std::is_same_v<T, double>;
            log.counts = r.plan.counts;
            log.dropped = r.plan.dropped;
            ctx.routing->push_back(log);
        }
        return r;
    }

    /// y += gate x for dropped choices, where the capacity says so.
    template <class T>
    static void pass_dropped(context<T>& ctx, const record<T>& r, matrix_view<T> y) {
        if constexpr (passes_tokens) {
            for_each_dropped(ctx, r, [&](index_t t, index_t i) {
                for (index_t c = 0; c < In; ++c) y(t, c) += r.view.gate[i] * r.x(t, c);
            });
        }
    }

    /// slot_gradient: dL/d(gate) per slot of the plan. Adds to dx when the input's gradient is wanted.
    template <class T>
    static void backward(context<T>& ctx, tensor_list<const T> w, tensor_list<T> g, const record<T>& r,
                         const T* slot_gradient, matrix_view<T> dx,
                         [[maybe_unused]] matrix_view<const T> dy) {
        const index_t n = r.x.rows;
        const arena_scope scope(*ctx.scratch);
        // Gate gradients go home to (token, choice); choices without a slot have none.
        T* dgate = ctx.scratch->template take<T>(n * slots);
        std::fill_n(dgate, n * slots, T(0));
        for (index_t s = 0; s < r.plan.slots; ++s) dgate[r.plan.choice[s]] = slot_gradient[s];

        if constexpr (passes_tokens) {
            for_each_dropped(ctx, r, [&](index_t t, index_t i) {
                dgate[i] = kernel::dot_row<T>(dy.row(t), r.x.row(t), In);
                if (!ctx.input_gradient) return;
                for (index_t c = 0; c < In; ++c) dx(t, c) += r.view.gate[i] * dy(t, c);
            });
        }

        const matrix_view<T> dlogits = ctx.temporary(n, outputs);
        const bool probability = r.view.probability.data != nullptr;
        const matrix_view<T> dprob = probability ? ctx.temporary(n, outputs) : matrix_view<T>{};
        for (index_t t = 0; t < n; ++t) {
            std::fill_n(dlogits.row(t), outputs, T(0));
            if (probability) std::fill_n(dprob.row(t), outputs, T(0));
        }
        if (r.auxiliary) {
            for_each_index<balances::size>([&](auto i) {
                balances::template at<i>::template gradient<T>(r.view, ctx.aux_scale, dprob, dlogits);
            });
        }
        if constexpr (pools) {
            if (r.auxiliary) take_from_pool(ctx, r, dprob, dgate);
        }
        parallel_ranges(ctx.exec, n, 256, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                gate_type::template backward<T>(r.view, t, r.view.gate + t * slots, dgate + t * slots,
                                                dlogits.row(t), probability ? dprob.row(t) : nullptr);
            }
        });
        if (probability) {
            kernel::softmax_backward_rows<T>(ctx.exec, r.view.probability, dprob, dlogits, true);
        }
        if constexpr (scores_freely) {
            scorer::template backward<In, outputs, T>(ctx, w, g, r.x, r.scored, dlogits, dx);
        } else if constexpr (scores_sequences) {
            scorer::template backward<T>(ctx.exec, panels(w[0]), panels(g[0]), r.x, r.view.sequence_offsets,
                                         r.view.sequences, r.best, dlogits, dx, ctx.accumulate,
                                         ctx.input_gradient);
        } else {
            scorer::template backward<T>(ctx.exec, panels(w[0]), panels(g[0]), r.x, dlogits, dx,
                                         ctx.accumulate, ctx.input_gradient);
        }
    }

private:
    // body(token, token * slots + choice)
    template <class T, class Body>
    static void for_each_dropped(context<T>& ctx, const record<T>& r, Body&& body) {
        parallel_ranges(ctx.exec, r.x.rows, 64, [&](index_t begin, index_t end) {
            for (index_t i = begin * slots; i < end * slots; ++i) {
                if (r.view.is_expert(r.view.chosen[i]) && r.admitted[i] < 0) body(i / slots, i);
            }
        });
    }

    template <class T>
    static void leave_for_pool(context<T>& ctx, const record<T>& r) {
        const auto board = ctx.signals->template find<signal::routing<outputs>>();
        if (!board.data) return;
        for (index_t t = 0; t < r.x.rows; ++t) {
            T* sums = board.row(ctx.rows.token_of(t));
            for (index_t e = 0; e < outputs; ++e) sums[e] += r.view.probability(t, e);
            for (index_t j = t * slots; j < (t + 1) * slots; ++j) {
                if (r.view.chosen[j] >= 0)
                    sums[outputs + r.view.chosen[j]] += pool::soft ? r.view.gate[j] : T(1);
            }
            sums[2 * outputs] += T(1);
        }
    }
    template <class T>
    static void take_from_pool(context<T>& ctx, const record<T>& r, matrix_view<T> dprob, T* dgate) {
        const auto board = ctx.signal_gradients->template find<signal::routing<outputs>>();
        if (!board.data) return;
        for (index_t t = 0; t < r.x.rows; ++t) {
            const T* slopes = board.row(ctx.rows.token_of(t));
            for (index_t e = 0; e < outputs; ++e) dprob(t, e) += slopes[e];
            if (!pool::soft) continue;
            for (index_t j = t * slots; j < (t + 1) * slots; ++j) {
                if (r.view.chosen[j] >= 0) dgate[j] += slopes[outputs + r.view.chosen[j]];
            }
        }
    }

    template <class T>
    static constexpr kernel::panel_view<T> panels(T* p) {
        return {p, In, kernel::panel_layout<std::remove_const_t<T>>::padded(outputs)};
    }
};

}  // namespace mox::inline MOX_ABI
