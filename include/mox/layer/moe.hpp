#pragma once

// Mixture of experts: scorer -> selector -> gate -> plan -> grouped products. The policies are small types
// in route/; this file only connects them.

#include <mox/kernel/softmax.hpp>
#include <mox/layer/ffn.hpp>
#include <mox/route/balance.hpp>
#include <mox/route/capacity.hpp>
#include <mox/route/gate.hpp>
#include <mox/route/linear_scorer.hpp>
#include <mox/route/null_experts.hpp>
#include <mox/route/plan.hpp>
#include <mox/route/top_k.hpp>

namespace mox::inline MOX_ABI {

/// E experts with the same body.
template <index_t E, class Body>
struct experts {
    static_assert(E > 0, "mox::experts: the number of experts must be positive");
    using body = Body;
    static constexpr index_t count = E;
};

/// A layer that every token passes beside its experts, with weight 1 (DeepSeekMoE, arXiv 2401.06066). Several
/// shared experts of one width are exactly one of their summed hidden width.
template <class Layer>
struct shared {
    using policy = route::shared_policy;
    using layer = Layer;
};

namespace detail {

template <class P>
consteval bool check_moe_policy() {
    static_assert(
        requires { typename P::policy; },
        "mox::moe: this argument is not a routing policy; expected a selector (route::top_k), gate, "
        "null_experts, capacity, balance or shared policy");
    return true;
}

template <class Bank>
consteval bool check_bank() {
    static_assert(
        requires {
            typename Bank::body;
            { Bank::count } -> std::convertible_to<index_t>;
        },
        "mox::moe: the first argument must be a bank of experts, such as "
        "mox::experts<8, mox::swiglu<256, 512>>");
    if constexpr (requires { typename Bank::body; }) {
        static_assert(
            requires { Bank::body::template bank_parameters<1>; },
            "mox::experts: the body must be an expert (mox::swiglu, mox::gated_ffn, mox::mlp or a type "
            "with bank_parameters, bank_forward and bank_backward)");
    }
    return true;
}

template <class Shared>
struct layers_of;
template <class... Ss>
struct layers_of<leaves<Ss...>> {
    using type = leaves<typename Ss::layer...>;
};

}  // namespace detail

/// y_t = sum over the chosen experts e of g_te f_e(x_t), plus the shared layers.
/// Policies in any order: one selector (route::top_k<k>); and optionally a gate (default
/// gate::renormalised), null_experts<M>, a capacity (default capacity::dropless), any number of balance
/// losses and of shared layers.
template <class Bank, class... Policies>
struct moe {
    static_assert(detail::check_bank<Bank>() && (detail::check_moe_policy<Policies>() && ... && true));
    static_assert(route::all_of_kind<route::selector_policy, Policies...>::size == 1,
                  "mox::moe: exactly one selector is needed, such as mox::route::top_k<2>");
    static_assert(route::all_of_kind<route::gate_policy, Policies...>::size <= 1,
                  "mox::moe: at most one gate policy can be given");
    static_assert(route::all_of_kind<route::nulls_policy, Policies...>::size <= 1,
                  "mox::moe: at most one null_experts policy can be given");
    static_assert(route::all_of_kind<route::capacity_policy, Policies...>::size <= 1,
                  "mox::moe: at most one capacity policy can be given");

    using body = typename Bank::body;
    using selector = typename route::all_of_kind<route::selector_policy, Policies...>::template at<0>;
    using gate_type = route::one_of_kind<route::gate_policy, gate::renormalised, Policies...>;
    using scorer = route::one_of_kind<route::scorer_policy, route::linear_scorer, Policies...>;
    using nulls = route::one_of_kind<route::nulls_policy, null_experts<0>, Policies...>;
    using capacity_type = route::one_of_kind<route::capacity_policy, capacity::dropless, Policies...>;
    using balances = route::all_of_kind<route::balance_policy, Policies...>;

    static constexpr std::string_view name = "moe";
    static constexpr index_t in = body::in;
    static constexpr index_t out = body::out;
    static constexpr index_t expert_count = Bank::count;
    static constexpr index_t null_count = nulls::count;
    static constexpr index_t outputs = expert_count + null_count;
    static constexpr index_t slots = selector::slots;
    static_assert(slots <= outputs, "mox::moe: the selector chooses more experts than there are");

    using children = typename detail::layers_of<route::all_of_kind<route::shared_policy, Policies...>>::type;

    static constexpr auto parameters = [] {
        constexpr auto bank = body::template bank_parameters<expert_count>;
        std::array<parameter, 1 + bank.size()> all{};
        all[0] = {
            .name = scorer::name, .form = storage::panels, .rows = in, .cols = outputs, .init = fill::small};
        for (std::size_t i = 0; i < bank.size(); ++i) all[i + 1] = bank[i];
        return all;
    }();

    /// Mean true experts per token when the router is balanced.
    static constexpr double mean_experts = static_cast<double>(slots) * expert_count / outputs;

    static constexpr double flops(double context) {
        double shared_flops = 0;
        for_each_index<children::size>(
            [&](auto i) { shared_flops += children::template at<i>::flops(context); });
        return 2.0 * in * outputs + mean_experts * body::flops(context) + shared_flops;
    }
    /// Share of each own tensor that one token touches.
    static constexpr double active_share(index_t tensor) {
        return tensor == 0 ? 1.0 : mean_experts / expert_count;
    }

    template <class T>
    struct record {
        matrix_view<const T> x;
        route::router_view<T> router;
        route::plan<T> plan;
        const T* gate;  // tokens x slots
        bool auxiliary;
    };

    template <class T>
    static void forward(context<T>& ctx, param_ref<moe, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        const index_t n = x.rows;
        const bool auxiliary = ctx.mode == phase::train && balances::size > 0;

        record<T> r{x, {}, {}, nullptr, auxiliary};
        const matrix_view<T> logits = ctx.activation(n, outputs);
        scorer::template forward<T>(ctx.exec, w.template panels<0>(), x, logits);
        r.router.logits = logits;
        if (gate_type::needs_probability || auxiliary) {
            const matrix_view<T> p = ctx.activation(n, outputs);
            T* lse = ctx.saved->template take<T>(n);
            kernel::softmax_rows<T>(ctx.exec, logits, p, lse);
            r.router.probability = p;
            r.router.log_sum_exp = lse;
        }
        row_t* chosen = ctx.kept->template take<row_t>(n * slots);
        selector::template select<T>(ctx.exec, logits, chosen);
        r.router.chosen = chosen;
        r.router.sequence_offsets = ctx.rows.offsets;
        r.router.sequences = ctx.rows.sequences;
        r.router.experts = expert_count;
        r.router.slots = slots;

        T* gates = ctx.kept->template take<T>(n * slots);
        parallel_ranges(ctx.exec, n, 256, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) gate_type::forward(r.router, t, gates + t * slots);
        });
        r.gate = gates;

        row_t* admitted = chosen;
        if constexpr (capacity_type::limited) {
            admitted = ctx.kept->template take<row_t>(n * slots);
            std::copy_n(chosen, n * slots, admitted);
        }
        r.plan = route::make_plan<T>(*ctx.kept, n, slots, expert_count, outputs, admitted, gates,
                                     capacity_type::limit(n, slots, expert_count));
        r.router.counts = r.plan.counts;

        if (auxiliary) {
            T sum = 0;
            for_each_index<balances::size>(
                [&](auto i) { sum += balances::template at<i>::template value<T>(r.router); });
            ctx.aux_loss += ctx.aux_scale * sum;
        }
        if (ctx.routing) {
            routing_record log;
            log.kind = routing_record::kind_t::experts;
            log.layer = type_id<moe>();
            log.rows = n;
            log.token = ctx.rows.token;
            log.experts = expert_count;
            log.nulls = null_count;
            log.slots = slots;
            log.chosen = admitted;
            log.gates = gates;
            log.gates_are_double = std::is_same_v<T, double>;
            log.counts = r.plan.counts;
            log.dropped = r.plan.dropped;
            ctx.routing->push_back(log);
        }

        run_shared(ctx, w, x, y);
        body::template bank_forward<T>(ctx, w.tensors().from(1), rows_of(r.plan), x, y, children::size > 0);
        ctx.save(r);
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<moe, const T> w, param_ref<moe, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto r = ctx.template restore<record<T>>();
        const index_t n = dy.rows;
        const arena_scope scope(*ctx.scratch);
        T* slot_gradient = ctx.scratch->template take<T>(r.plan.slots);
        body::template bank_backward<T>(ctx, w.tensors().from(1), g.tensors().from(1), dy, dx, slot_gradient);

        // Gate gradients go home to (token, choice); choices without a slot have none.
        T* dgate = ctx.scratch->template take<T>(n * slots);
        std::fill_n(dgate, n * slots, T(0));
        for (index_t s = 0; s < r.plan.slots; ++s) dgate[r.plan.choice[s]] = slot_gradient[s];

        const matrix_view<T> dlogits = ctx.temporary(n, outputs);
        const bool probability = r.router.probability.data != nullptr;
        const matrix_view<T> dprob = probability ? ctx.temporary(n, outputs) : matrix_view<T>{};
        for (index_t t = 0; t < n; ++t) {
            std::fill_n(dlogits.row(t), outputs, T(0));
            if (probability) std::fill_n(dprob.row(t), outputs, T(0));
        }
        if (r.auxiliary) {
            for_each_index<balances::size>([&](auto i) {
                balances::template at<i>::template gradient<T>(r.router, ctx.aux_scale, dprob, dlogits);
            });
        }
        parallel_ranges(ctx.exec, n, 256, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                gate_type::template backward<T>(r.router, t, r.gate + t * slots, dgate + t * slots,
                                                dlogits.row(t), probability ? dprob.row(t) : nullptr);
            }
        });
        if (probability) {
            kernel::softmax_backward_rows<T>(ctx.exec, r.router.probability, dprob, dlogits, true);
        }
        scorer::template backward<T>(ctx.exec, w.template panels<0>(), g.template panels<0>(), r.x, dlogits,
                                     dx, ctx.accumulate, ctx.input_gradient);
        run_shared_backward(ctx, w, g, dy, dx);
    }

private:
    template <class T>
    static bank_rows<T> rows_of(const route::plan<T>& p) {
        return {p.groups(), p.token, p.gate};
    }

    template <class T>
    static void run_shared(context<T>& ctx, param_ref<moe, const T> w, matrix_view<const T> x,
                           matrix_view<T> y) {
        for_each_index<children::size>([&](auto i) {
            using shared_layer = typename children::template at<i>;
            if constexpr (i == 0) {
                shared_layer::template forward<T>(ctx, w.template child<i>(), x, y);
            } else {
                const arena_scope scope(*ctx.scratch);
                const matrix_view<T> part = ctx.temporary(y.rows, y.cols);
                shared_layer::template forward<T>(ctx, w.template child<i>(), x, part);
                kernel::add_rows<T>(ctx.exec, part, y);
            }
        });
    }

    template <class T>
    static void run_shared_backward(context<T>& ctx, param_ref<moe, const T> w, param_ref<moe, T> g,
                                    matrix_view<const T> dy, matrix_view<T> dx) {
        for_each_index_reversed<children::size>([&](auto i) {
            using shared_layer = typename children::template at<i>;
            const arena_scope scope(*ctx.scratch);
            matrix_view<T> part;
            if (ctx.input_gradient) part = ctx.temporary(dy.rows, in);
            shared_layer::template backward<T>(ctx, w.template child<i>(), g.template child<i>(), dy, part);
            if (ctx.input_gradient) kernel::add_rows<T>(ctx.exec, part, dx);
        });
    }
};

}  // namespace mox::inline MOX_ABI
