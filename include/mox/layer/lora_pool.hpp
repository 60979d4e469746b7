#pragma once

// Many adapters of different ranks around one frozen layer, each sequence with its own: what servers call
// multi-LoRA. All adapters lie rank by rank in one pair of matrices, and a plan of the batch runs every one
// of them on its own rows: an adapter costs its own rank, a sequence without one costs nothing.

#include <mox/layer/frozen.hpp>
#include <mox/layer/low_rank.hpp>
#include <mox/route/plan.hpp>
#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI {

/// Room for adapters.
struct pool_spec {
    index_t adapters = 0;  ///< ids 0 to adapters - 1
    index_t ranks = 0;     ///< of all adapters together
};

/// y_t = base(x_t) + s_e x_t A_e' B_e with e the label of t's sequence (batch::with_labels); -1 is the base
/// alone. Starts without adapters; mox::load_adapter and mox::unload_adapter (transform/adapter_pool.hpp)
/// bring them in and out. Loaded adapters have gradients from their own sequences; an optimiser with moments
/// still moves one that had none in a step, and must start anew when ranks change hands. No dropout. Throws
/// mox::error when labels are missing or name an adapter that is not loaded. Setting: Punica (arXiv
/// 2310.18547), S-LoRA (arXiv 2311.03285).
template <class Base, pool_spec Spec>
struct lora_pool {
    static_assert(detail::check_adapted<Base>() && check_layer<Base>());
    static_assert(Spec.adapters > 0 && Spec.ranks > 0,
                  "mox::lora_pool: the numbers of adapters and of ranks must be positive, such as "
                  "pool_spec{.adapters = 16, .ranks = 256}");

    using children = leaves<frozen<Base>>;

    static constexpr std::string_view name = "lora_pool";
    static constexpr index_t in = Base::in;
    static constexpr index_t out = Base::out;
    static constexpr index_t adapters = Spec.adapters;
    static constexpr index_t ranks = Spec.ranks;
    static constexpr bool transparent = true;
    static constexpr bool chooses_update = true;  ///< mox::merge refuses

    /// The table: adapter e owns the ranks [first, first + rank), which are counted in whole numbers; rank 0
    /// is an id without an adapter.
    static constexpr auto parameters = [] {
        constexpr auto factor = [](std::string_view factor_name, index_t cols) {
            return parameter{.name = factor_name,
                             .form = storage::panels,
                             .rows = ranks,
                             .cols = cols,
                             .init = fill::zeros,
                             .decays = false};
        };
        constexpr auto table = [](std::string_view column) {
            return parameter{
                .name = column, .cols = adapters, .init = fill::zeros, .decays = false, .trained = false};
        };
        return std::array{factor("a", in), factor("b", out), table("first"), table("rank"), table("scale")};
    }();

    /// With the mean adapter of a full pool.
    static constexpr double flops(double context) {
        return Base::flops(context) + 2.0 * ranks / adapters * (in + out);
    }
    /// Share of each own tensor that one token touches.
    static constexpr double active_share(index_t) { return 1.0 / adapters; }

    template <class T>
    struct record {
        matrix_view<const T> x;
        matrix_view<T> z;  ///< slots x largest rank: s x A'
        route::plan<T> plan;
        const row_t* first;
        const row_t* rank;
    };

    template <class T>
    static void forward(context<T>& ctx, param_ref<lora_pool, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        record<T> r{};
        r.x = x;
        read_table(ctx, w, r);
        r.plan = make_plan(ctx, r, x.rows);
        frozen<Base>::template forward<T>(ctx, w.template child<0>(), x, y);
        const kernel::group_view groups = r.plan.groups();
        const index_t widest = *std::max_element(r.rank, r.rank + adapters);
        r.z = ctx.activation(r.plan.slots, widest);
        kernel::grouped_transposed<T>(ctx.exec, groups, kernel::row_source<const T>(x, r.plan.token), in,
                                      stack<const T>(w.template panels<0>(), r),
                                      {kernel::row_source<T>(r.z), widest});
        scale(ctx, w, r, r.z);
        kernel::grouped_product_to_tokens<T>(ctx.exec, groups, r.plan.token, kernel::row_source<const T>(r.z),
                                             static_cast<const T*>(nullptr),
                                             stack<const T>(w.template panels<1>(), r), y, true);
        ctx.save(r);
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<lora_pool, const T> w, param_ref<lora_pool, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto r = ctx.template restore<record<T>>();
        const kernel::group_view groups = r.plan.groups();
        frozen<Base>::template backward<T>(ctx, w.template child<0>(), g.template child<0>(), dy, dx);
        const arena_scope scope(*ctx.scratch);
        const matrix_view<T> dz = ctx.temporary(r.z.rows, r.z.cols);
        const kernel::row_source<const T> dy_rows(dy, r.plan.token), x_rows(r.x, r.plan.token);
        kernel::grouped_transposed<T>(ctx.exec, groups, dy_rows, out,
                                      stack<const T>(w.template panels<1>(), r),
                                      {kernel::row_source<T>(dz), dz.cols});
        scale(ctx, w, r, dz);
        if (g) {
            // Ranks of nobody have a gradient too: none.
            if (!ctx.accumulate) {
                std::fill_n(g[0], g.template panels<0>().size(), T(0));
                std::fill_n(g[1], g.template panels<1>().size(), T(0));
            }
            kernel::grouped_weight_gradient<T>(ctx.exec, groups, kernel::row_source<const T>(r.z), dy_rows,
                                               out, stack<T>(g.template panels<1>(), r), true);
            kernel::grouped_weight_gradient<T>(ctx.exec, groups, kernel::row_source<const T>(dz), x_rows, in,
                                               stack<T>(g.template panels<0>(), r), true);
        }
        if (ctx.input_gradient) {
            kernel::grouped_product_to_tokens<T>(
                ctx.exec, groups, r.plan.token, kernel::row_source<const T>(dz),
                static_cast<const T*>(nullptr), stack<const T>(w.template panels<0>(), r), dx, true);
        }
    }

private:
    static constexpr index_t first_at = 2, rank_at = 3, scale_at = 4;

    template <class T>
    static kernel::panel_stack<T> stack(kernel::panel_view<T> all, const record<std::remove_const_t<T>>& r) {
        return {all, r.first, r.rank};
    }

    // The table comes from a file or a user: whole numbers inside the pool, and no rank twice.
    template <class T>
    static void read_table(context<T>& ctx, param_ref<lora_pool, const T> w, record<T>& r) {
        row_t* first = ctx.kept->template take<row_t>(adapters);
        row_t* rank = ctx.kept->template take<row_t>(adapters);
        const arena_scope scope(*ctx.scratch);
        bool* taken = ctx.scratch->template take<bool>(ranks);
        std::fill_n(taken, ranks, false);
        for (index_t e = 0; e < adapters; ++e) {
            const T from = w[first_at][e], count = w[rank_at][e];
            bool good = from >= T(0) && count >= T(0) && from <= T(ranks) && count <= T(ranks) &&
                        from + count <= T(ranks) && from == std::floor(from) && count == std::floor(count);
            first[e] = good ? static_cast<row_t>(from) : 0;
            rank[e] = good ? static_cast<row_t>(count) : 0;
            for (row_t i = first[e]; i < first[e] + rank[e]; ++i) {
                good = good && !taken[i];
                taken[i] = true;
            }
            if (!good) {
                check::fail("mox::lora_pool", "tensors 'first' and 'rank' must give every adapter ranks of "
                                              "its own below " +
                                                  std::to_string(ranks) + ", but adapter " +
                                                  std::to_string(e) + " has not");
            }
        }
        r.first = first;
        r.rank = rank;
    }

    template <class T>
    static route::plan<T> make_plan(context<T>& ctx, const record<T>& r, index_t tokens) {
        check::that(ctx.rows.labels != nullptr || tokens == 0, "mox::lora_pool", route::labels_wanted);
        row_t* chosen = ctx.kept->template take<row_t>(tokens);
        T* gate = ctx.kept->template take<T>(tokens);
        std::fill_n(gate, tokens, T(1));
        for (index_t s = 0; tokens > 0 && s < ctx.rows.sequences; ++s) {
            const row_t label = ctx.rows.labels[s];
            if (label < -1 || label >= adapters || (label >= 0 && r.rank[label] == 0)) {
                check::fail("mox::lora_pool",
                            "argument 'labels' must hold ids of loaded adapters, or -1 for none; sequence " +
                                std::to_string(s) + " has " + std::to_string(label));
            }
            for (index_t t = ctx.rows.begin(s); t < ctx.rows.begin(s) + ctx.rows.length(s); ++t)
                chosen[t] = label;
        }
        const route::plan<T> plan =
            route::make_plan<T>(*ctx.kept, tokens, 1, adapters, adapters, chosen, gate, tokens);
        if (ctx.routing) {
            routing_record log;
            log.kind = routing_record::kind_t::experts;
            log.layer = type_id<lora_pool>();
            log.rows = tokens;
            log.token = ctx.rows.token;
            log.experts = adapters;
            log.slots = 1;
            log.chosen = chosen;
            log.gates = gate;
            log.gates_are_double = std::is_same_v<T, double>;
            log.counts = plan.counts;
            ctx.routing->push_back(log);
        }
        return plan;
    }

    template <class T>
    static void scale(context<T>& ctx, param_ref<lora_pool, const T> w, const record<T>& r,
                      matrix_view<T> z) {
        kernel::for_each_unit(ctx.exec, r.plan.groups(), 1,
                              [&](index_t e, index_t begin, index_t end, index_t, index_t) {
                                  const T s = w[scale_at][e];
                                  for (index_t i = begin; i < end; ++i) {
                                      for (index_t j = 0; j < r.rank[e]; ++j) z(i, j) *= s;
                                  }
                              });
    }
};

/// Wraps the maps of a layer: attention<spec, mask::causal, with_lora_pool<{.adapters = 16, .ranks = 256}>>.
template <pool_spec Spec>
struct with_lora_pool {
    template <class L>
    using around = lora_pool<L, Spec>;
};

}  // namespace mox::inline MOX_ABI
