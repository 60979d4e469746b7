#pragma once

// Mixture of experts: a router's plan, executed by the grouped products of its experts.

#include <mox/layer/ffn.hpp>
#include <mox/layer/router.hpp>

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
    static_assert(detail::check_bank<Bank>());

    using body = typename Bank::body;
    using routing = router<body::in, Bank::count, Policies...>;
    static_assert(!routing::passes_tokens || body::in == body::out,
                  "mox::moe: overflow::token needs experts whose output has the width of their input");

    static constexpr std::string_view name = "moe";
    static constexpr index_t in = body::in;
    static constexpr index_t out = body::out;
    static constexpr index_t expert_count = Bank::count;
    static constexpr index_t null_count = routing::null_count;
    static constexpr index_t outputs = routing::outputs;
    static constexpr index_t slots = routing::slots;
    static constexpr double mean_experts = routing::mean_experts;
    static constexpr index_t draw_numbers = [] {
        index_t n = routing::draws ? 1 : 0;
        if constexpr (requires { body::draws; }) n += body::draws ? 1 : 0;
        return n;
    }();
    using reads = typename routing::reads;
    using teaches = reads;
    using publishes = typename routing::publishes;

    using children = typename detail::layers_of<route::all_of_kind<route::shared_policy, Policies...>>::type;
    /// Low-rank experts around one layer only wrap it, like mox::lora (model/transfer.hpp).
    static constexpr bool transparent = requires { body::rank; }
    &&children::size == 1;

    static constexpr auto parameters = [] {
        constexpr auto bank = body::template bank_parameters<expert_count>;
        constexpr std::size_t own = routing::tensors.size();
        std::array<parameter, own + bank.size()> all{};
        for (std::size_t i = 0; i < own; ++i) all[i] = routing::tensors[i];
        for (std::size_t i = 0; i < bank.size(); ++i) all[i + own] = bank[i];
        return all;
    }();

    static constexpr double flops(double context) {
        double shared_flops = 0;
        for_each_index<children::size>(
            [&](auto i) { shared_flops += children::template at<i>::flops(context); });
        return routing::flops + routing::mean_experts * body::flops(context) + shared_flops;
    }
    /// Share of each own tensor that one token touches.
    static constexpr double active_share(index_t tensor) {
        return tensor < routing::tensor_count ? 1.0 : routing::mean_experts / expert_count;
    }

    template <class T>
    static void forward(context<T>& ctx, param_ref<moe, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        const auto r = routing::template forward<T>(ctx, w.tensors(), x, type_id<moe>());
        run_shared(ctx, w, x, y);
        body::template bank_forward<T>(ctx, w.tensors().from(routing::tensor_count), rows_of(r.plan), x, y,
                                       children::size > 0);
        routing::pass_dropped(ctx, r, y);
        ctx.save(r);
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<moe, const T> w, param_ref<moe, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto r = ctx.template restore<typename routing::template record<T>>();
        const arena_scope scope(*ctx.scratch);
        T* slot_gradient = ctx.scratch->template take<T>(r.plan.slots);
        body::template bank_backward<T>(ctx, w.tensors().from(routing::tensor_count),
                                        g.tensors().from(routing::tensor_count), dy, dx, slot_gradient);
        routing::template backward<T>(ctx, w.tensors(), g.tensors(), r, slot_gradient, dx, dy);
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
