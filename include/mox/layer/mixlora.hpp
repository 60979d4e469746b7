#pragma once

// MixLoRA (arXiv 2404.15159): the experts of a feed-forward layer share one frozen network and differ in
// low-rank updates of its maps. What the experts share is computed once a token: the maps in front before the
// routing matters, and, because it is linear, the map behind on the mixture of the hidden rows:
//   y = (sum_e g_e v_e) Wd + s sum_e g_e (v_e Ad') Bd.
// With learned magnitudes each expert scales the outputs of its maps, so the map behind runs once per choice.

#include <mox/layer/adapt.hpp>
#include <mox/layer/dropout.hpp>
#include <mox/layer/frozen.hpp>
#include <mox/layer/magnitudes.hpp>
#include <mox/layer/router.hpp>
#include <mox/layer/slot_update.hpp>

namespace mox::inline MOX_ABI {

/// The low-rank updates of a MixLoRA expert, and which of the three maps have one.
struct mixlora_spec {
    adapter_spec adapter;
    bool gate = true;
    bool up = true;
    bool down = true;
    bool gated = true;        ///< false: a network of two maps, up and down, v = act(x Wu); there is no gate
    bool magnitudes = false;  ///< outputs of updated maps have learned magnitudes, one per expert (DoRA)
    bool biases = false;      ///< the shared maps have biases, frozen like them
};

/// E experts around one frozen network of width D and H hidden units. Takes over the tensors of swiglu<D, H>,
/// or of mlp<D, H> where the spec says not gated, with its biases where the spec has them
/// (mox::copy_matching); starts as that network. The bias of the map behind belongs to each expert, so a
/// token gets it times the sum of its gates: once where they are renormalised. With magnitudes (MixDoRA) an
/// expert's maps are those of mox::dora, and mox::start_dora makes the layer start as the network. Policies
/// are those of mox::moe without shared layers; MixLoRA's own are route::top_k<2> and balance::load<>, whose
/// value is here 1 / k of the paper's.
template <index_t D, index_t H, class Act, index_t E, mixlora_spec Spec, class... Policies>
struct mixlora {
    static_assert(D > 0 && H > 0 && E > 0, "mox::mixlora: widths and the number of experts must be positive");
    static_assert(Spec.adapter.rank > 0,
                  "mox: an adapter needs a positive rank, such as adapter_spec{.rank = 8}");
    static_assert(Spec.adapter.dropout >= 0 && Spec.adapter.dropout < 1,
                  "mox: the dropout of an adapter must lie in [0, 1)");
    static_assert(Spec.adapter.kept_ranks == 0,
                  "mox::mixlora: kept_ranks is for mox::lora; experts have none");

    static_assert(route::all_of_kind<route::shared_policy, Policies...>::size == 0,
                  "mox::mixlora: it takes no shared layers; the network around which the experts are is one "
                  "already");

    static constexpr std::string_view name = "mixlora";
    static constexpr index_t in = D;
    static constexpr index_t out = D;
    static constexpr index_t hidden = H;
    static constexpr index_t rank = Spec.adapter.rank;
    static constexpr double scale = Spec.adapter.scale();
    static constexpr bool chooses_update = true;  ///< mox::merge refuses
    using routing = router<D, E, Policies...>;
    static constexpr bool drops = Spec.adapter.dropout > 0;
    static constexpr index_t draw_numbers = (drops ? 1 : 0) + (routing::draws ? 1 : 0);
    using reads = typename routing::reads;
    using teaches = reads;
    using publishes = typename routing::publishes;
    static constexpr bool gated = Spec.gated;
    static constexpr index_t front = gated ? 2 * H : H;  ///< columns of the maps in front
    using children = leaves<frozen<linear<D, front>>, frozen<linear<H, D, bias::none, true>>>;
    static constexpr std::array<std::string_view, 2> child_names{gated ? "gate_up" : "up", "down"};
    static constexpr bool updates_gate = gated && Spec.gate, updates_up = Spec.up, updates_down = Spec.down;

    using ahead = detail::magnitudes<D, H, Spec.adapter>;
    using behind = detail::magnitudes<H, D, Spec.adapter>;
    static constexpr std::size_t updates = static_cast<std::size_t>(updates_gate) +
                                           static_cast<std::size_t>(Spec.up) +
                                           static_cast<std::size_t>(Spec.down);
    static_assert(updates > 0, "mox::mixlora: at least one map must have an update");
    // Own tensors: the router's, then two factors, and magnitudes, per update, then the biases of the
    // network.
    static constexpr index_t per_update = Spec.magnitudes ? 3 : 2;
    static constexpr index_t gate_at = routing::tensor_count,
                             up_at = gate_at + (updates_gate ? per_update : 0),
                             down_at = up_at + (Spec.up ? per_update : 0),
                             bias_at = down_at + (Spec.down ? per_update : 0);
    // Whose outputs have magnitudes: the map under the activation, the one beside it, the one behind.
    static constexpr bool scales_inner = Spec.magnitudes && (gated ? updates_gate : Spec.up),
                          scales_beside = Spec.magnitudes && gated && Spec.up,
                          scales_down = Spec.magnitudes && Spec.down;

    static constexpr auto parameters = [] {
        std::array<parameter, static_cast<std::size_t>(bias_at) + (Spec.biases ? 2 : 0)> all{};
        std::size_t at = 0;
        for (const parameter& p : routing::tensors) all[at++] = p;
        const auto add = [&](bool wanted, std::string_view a, std::string_view b, index_t from, index_t to,
                             const parameter& magnitude) {
            if (!wanted) return;
            all[at++] = Spec.adapter.down(a, E, from);
            all[at++] = Spec.adapter.up(b, E, to);
            if (Spec.magnitudes) all[at++] = magnitude;
        };
        add(updates_gate, "gate_a", "gate_b", D, H, ahead::tensor("gate_magnitude", E));
        add(Spec.up, "up_a", "up_b", D, H, ahead::tensor("up_magnitude", E));
        add(Spec.down, "down_a", "down_b", H, D, behind::tensor("down_magnitude", E));
        const auto add_bias = [&](std::string_view bias, index_t width) {
            if (Spec.biases)
                all[at++] = {.name = bias,
                             .form = storage::rows,
                             .cols = width,
                             .init = fill::zeros,
                             .decays = false,
                             .trained = false};
        };
        add_bias(gated ? "gate_up_bias" : "up_bias", front);
        add_bias("down_bias", D);
        return all;
    }();

    /// Norms are not counted: they cost 2 (rank + 1) D H per map and chosen expert a call.
    static constexpr double flops(double) {
        return routing::flops + 2.0 * D * front + (scales_down ? routing::mean_experts : 1.0) * 2.0 * D * H +
               routing::mean_experts * static_cast<double>(updates) * 2.0 * rank * (D + H);
    }
    /// Share of each own tensor that one token touches.
    static constexpr double active_share(index_t tensor) {
        return tensor < routing::tensor_count || tensor >= bias_at ? 1.0 : routing::mean_experts / E;
    }

    template <class T>
    struct record {
        typename routing::template record<T> route;
        matrix_view<const T> x;
        matrix_view<T> a, c, v;  ///< slots x H: gate and up pre-activations (one without a gate), hidden rows
        matrix_view<T> zg, zu, zd;  ///< slots x rank
        matrix_view<T> outer;       ///< slots x D: before the magnitudes of the map behind
        typename ahead::template record<T> inner_scales, beside_scales;
        typename behind::template record<T> outer_scales;
        dropout_draw drop;
        matrix_view<const T> xg, xu, vd;  ///< what the updates read: x, x and v after dropout
    };

    template <class T>
    static void forward(context<T>& ctx, param_ref<mixlora, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        const index_t n = x.rows;
        record<T> r{};
        r.route = routing::template forward<T>(ctx, w.tensors(), x, type_id<mixlora>());
        r.x = x;
        const route::plan<T>& plan = r.route.plan;
        const kernel::group_view groups = plan.groups();
        if constexpr (drops) r.drop = dropout_draw::next(ctx, Spec.adapter.dropout);
        const matrix_view<T> pre = ctx.activation(n, front);
        frozen<linear<D, front>>::template forward<T>(ctx, w.template child<0>(), x, pre);
        if constexpr (Spec.biases) kernel::add_vector_rows<T>(ctx.exec, w[bias_at], pre);

        for (matrix_view<T>* m : {&r.a, &r.v}) *m = ctx.activation(plan.slots, H);
        r.c = gated ? ctx.activation(plan.slots, H) : r.a;
        kernel::gather_rows<T>(ctx.exec, pre.middle_cols(0, H), plan.token, r.a);
        if constexpr (gated) kernel::gather_rows<T>(ctx.exec, pre.middle_cols(H, H), plan.token, r.c);
        if constexpr (updates_gate) {
            r.zg = ctx.activation(plan.slots, rank);
            r.xg = detail::dropped_rows<T>(ctx, r.drop, gate_at, x);
            into::forward(ctx, groups, w[gate_at], w[gate_at + 1],
                          kernel::row_source<const T>(r.xg, plan.token), r.zg, r.a);
        }
        if constexpr (Spec.up) {
            r.zu = ctx.activation(plan.slots, rank);
            r.xu = detail::dropped_rows<T>(ctx, r.drop, up_at, x);
            into::forward(ctx, groups, w[up_at], w[up_at + 1], kernel::row_source<const T>(r.xu, plan.token),
                          r.zu, r.c);
        }
        if constexpr (scales_inner) {
            constexpr index_t at = gated ? gate_at : up_at;
            r.inner_scales = ahead::measure(ctx, groups, front_map(w), 0, w[at], w[at + 1], w[at + 2]);
        }
        if constexpr (scales_beside)
            r.beside_scales =
                ahead::measure(ctx, groups, front_map(w), H, w[up_at], w[up_at + 1], w[up_at + 2]);
        for_each_unit(ctx, groups, [&](index_t e, index_t s, index_t j, index_t count) {
            auto v = Act::value(scaled<scales_inner>(r.inner_scales, e, r.a, s, j, count));
            if constexpr (gated) v *= scaled<scales_beside>(r.beside_scales, e, r.c, s, j, count);
            simd::store_upto(r.v.row(s) + j, v, count);
        });

        // Experts come in ascending order, so that sums do not depend on threads.
        if constexpr (scales_down) {
            r.outer = ctx.activation(plan.slots, D);
            kernel::dense<T>(ctx.exec, down_map(w), r.v, r.outer);
            if constexpr (Spec.biases) kernel::add_vector_rows<T>(ctx.exec, w[bias_at + 1], r.outer);
            r.zd = ctx.activation(plan.slots, rank);
            r.vd = detail::dropped_rows<T>(ctx, r.drop, down_at, r.v);
            back::forward(ctx, groups, w[down_at], w[down_at + 1], kernel::row_source<const T>(r.vd), r.zd,
                          r.outer);
            r.outer_scales =
                behind::measure(ctx, groups, down_map(w), 0, w[down_at], w[down_at + 1], w[down_at + 2]);
            const arena_scope scope(*ctx.scratch);
            const matrix_view<T> o = ctx.temporary(plan.slots, D);
            behind::apply(ctx, groups, r.outer_scales, kernel::row_source<const T>(r.outer), o);
            add_to_tokens(ctx, plan, plan.gate, o, y, 0);
        } else {
            const arena_scope scope(*ctx.scratch);
            const matrix_view<T> mixed = ctx.temporary(n, H);
            add_to_tokens(ctx, plan, plan.gate, r.v, mixed, 0);
            kernel::dense<T>(ctx.exec, down_map(w), mixed, y);
            if constexpr (Spec.biases)
                detail::add_output_bias<T>(ctx, {groups, plan.token, plan.gate}, w[bias_at + 1], 0, y);
        }
        if constexpr (Spec.down && !scales_down) {
            r.zd = ctx.activation(plan.slots, rank);
            r.vd = detail::dropped_rows<T>(ctx, r.drop, down_at, r.v);
            back::project(ctx, groups, w[down_at], kernel::row_source<const T>(r.vd), r.zd);
            kernel::grouped_product_to_tokens<T>(
                ctx.exec, groups, plan.token, kernel::row_source<const T>(r.zd), plan.gate,
                back::ranks::stack(back::ranks::up(w[down_at + 1], E)), y, true);
        }
        routing::pass_dropped(ctx, r.route, y);
        ctx.save(r);
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<mixlora, const T> w, param_ref<mixlora, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto r = ctx.template restore<record<T>>();
        const route::plan<T>& plan = r.route.plan;
        const kernel::group_view groups = plan.groups();
        const index_t n = dy.rows, slots = plan.slots;
        const kernel::row_source<const T> dy_rows(dy, plan.token);
        const arena_scope scope(*ctx.scratch);
        T* dgate = ctx.scratch->template take<T>(slots);
        const matrix_view<T> dv = ctx.temporary(slots, H);
        if constexpr (scales_down) {
            // dv gets the slot's gate here.
            const matrix_view<T> d = ctx.temporary(slots, D), dz = ctx.temporary(slots, rank);
            behind::apply(ctx, groups, r.outer_scales, dy_rows, d);
            for (index_t s = 0; s < slots; ++s) dgate[s] = kernel::dot_row<T>(d.row(s), r.outer.row(s), D);
            kernel::gather_rows<T>(ctx.exec, dy, plan.token, d);
            for_each_unit<D>(ctx, groups, [&](index_t, index_t s, index_t j, index_t count) {
                T* to = d.row(s) + j;
                simd::store_upto(
                    to, simd::load_upto<T, simd::default_arch>(to, count) * simd::batch<T>(plan.gate[s]),
                    count);
            });
            behind::backward(ctx, groups, r.outer_scales, r.outer, d, g[down_at + 2]);
            kernel::dense_transposed<T>(ctx.exec, down_map(w), d, dv, false);
            back::backward(ctx, groups, w[down_at + 1], g[down_at], g[down_at + 1],
                           kernel::row_source<const T>(r.vd), kernel::row_source<const T>(r.zd),
                           kernel::row_source<const T>(d), dz);
            detail::through_dropout(ctx, r.drop, down_at, dv, [&](matrix_view<T> to) {
                kernel::grouped_product<T>(ctx.exec, groups, kernel::row_source<const T>(dz),
                                           back::ranks::stack(back::ranks::down(w[down_at], E)),
                                           {kernel::row_source<T>(to), H, nullptr, true});
            });
        } else {
            const matrix_view<T> dmixed = ctx.temporary(n, H);
            kernel::dense_transposed<T>(ctx.exec, down_map(w), dy, dmixed, false);
            kernel::gather_rows<T>(ctx.exec, dmixed, plan.token, dv);
            for (index_t s = 0; s < slots; ++s) {
                dgate[s] = kernel::dot_row<T>(dv.row(s), r.v.row(s), H);
                if constexpr (Spec.biases) dgate[s] += kernel::dot_row<T>(dy_rows(s), w[bias_at + 1], D);
            }
        }
        if constexpr (Spec.down && !scales_down) {
            // The slot's gate multiplies both factors' gradients; what meets B is gate times z.
            const matrix_view<T> u = ctx.temporary(slots, rank), dz = ctx.temporary(slots, rank);
            kernel::grouped_transposed<T>(ctx.exec, groups, dy_rows, D,
                                          back::ranks::stack(back::ranks::up(w[down_at + 1], E)),
                                          {kernel::row_source<T>(dz), rank});
            for (index_t s = 0; s < slots; ++s) dgate[s] += kernel::dot_row<T>(dz.row(s), r.zd.row(s), rank);
            for (index_t s = 0; s < slots; ++s) {
                for (index_t j = 0; j < rank; ++j) {
                    u(s, j) = plan.gate[s] * r.zd(s, j);
                    dz(s, j) *= static_cast<T>(Spec.adapter.scale());
                }
            }
            detail::through_dropout(ctx, r.drop, down_at, dv, [&](matrix_view<T> to) {
                kernel::grouped_product<T>(ctx.exec, groups, kernel::row_source<const T>(dz),
                                           back::ranks::stack(back::ranks::down(w[down_at], E)),
                                           {kernel::row_source<T>(to), H, nullptr, true});
            });
            if (g[down_at]) {
                for (index_t s = 0; s < slots; ++s) {
                    for (index_t j = 0; j < rank; ++j) dz(s, j) *= plan.gate[s];
                }
                back::gradients(ctx, groups, g[down_at], g[down_at + 1], kernel::row_source<const T>(r.vd),
                                kernel::row_source<const T>(u), dy_rows, dz);
            }
        }
        // The hidden rows' gradients carry the gate; then through the activation, into a and c, in their
        // place unless magnitudes still need them.
        const matrix_view<T> da = scales_inner ? ctx.temporary(slots, H) : r.a;
        const matrix_view<T> dc = !gated ? da : scales_beside ? ctx.temporary(slots, H) : r.c;
        for_each_unit(ctx, groups, [&](index_t e, index_t s, index_t j, index_t count) {
            const auto a = scaled<scales_inner>(r.inner_scales, e, r.a, s, j, count);
            auto d = simd::load_upto<T, simd::default_arch>(dv.row(s) + j, count);
            if constexpr (!scales_down) d = d * simd::batch<T>(plan.gate[s]);
            auto inner = d * Act::derivative(a);
            if constexpr (gated) {
                inner *= scaled<scales_beside>(r.beside_scales, e, r.c, s, j, count);
                simd::store_upto(dc.row(s) + j, d * Act::value(a), count);
            }
            simd::store_upto(da.row(s) + j, inner, count);
        });
        if constexpr (scales_inner)
            ahead::backward(ctx, groups, r.inner_scales, r.a, da, g[(gated ? gate_at : up_at) + 2]);
        if constexpr (scales_beside) ahead::backward(ctx, groups, r.beside_scales, r.c, dc, g[up_at + 2]);

        const matrix_view<T> dpre = ctx.temporary(n, front);
        add_to_tokens<T>(ctx, plan, nullptr, da, dpre, 0);
        if constexpr (gated) add_to_tokens<T>(ctx, plan, nullptr, dc, dpre, H);
        frozen<linear<D, front>>::template backward<T>(ctx, w.template child<0>(), g.template child<0>(),
                                                       dpre, dx);
        const matrix_view<T> dz = ctx.temporary(slots, rank);
        const auto into_map = [&](index_t at, matrix_view<const T> from, matrix_view<T> z,
                                  matrix_view<T> dout) {
            into::backward(ctx, groups, w[at + 1], g[at], g[at + 1],
                           kernel::row_source<const T>(from, plan.token), kernel::row_source<const T>(z),
                           kernel::row_source<const T>(dout), dz);
            if (!ctx.input_gradient) return;
            detail::through_dropout(ctx, r.drop, at, dx, [&](matrix_view<T> to) {
                kernel::grouped_product_to_tokens<T>(
                    ctx.exec, groups, plan.token, kernel::row_source<const T>(dz),
                    static_cast<const T*>(nullptr), into::ranks::stack(into::ranks::down(w[at], E)), to,
                    true);
            });
        };
        if constexpr (updates_gate) into_map(gate_at, r.xg, r.zg, da);
        if constexpr (Spec.up) into_map(up_at, r.xu, r.zu, dc);
        routing::template backward<T>(ctx, w.tensors(), g.tensors(), r.route, dgate, dx, dy);
    }

private:
    template <class T>
    static kernel::panel_view<const T> front_map(param_ref<mixlora, const T> w) {
        return w.template child<0>().template child<0>().template panels<0>();
    }
    template <class T>
    static kernel::panel_view<const T> down_map(param_ref<mixlora, const T> w) {
        return w.template child<1>().template child<0>().template panels<0>();
    }

    // Units [j, j + count) of a slot's row, times the magnitudes where there are.
    template <bool Scales, class T>
    static simd::batch<T> scaled(const typename ahead::template record<T>& scales, index_t expert,
                                 matrix_view<T> rows, index_t slot, index_t j, index_t count) {
        const auto v = simd::load_upto<T, simd::default_arch>(rows.row(slot) + j, count);
        if constexpr (Scales)
            return v * simd::load_upto<T, simd::default_arch>(scales.factors(expert) + j, count);
        return v;
    }

    using into = detail::slot_update<D, H, Spec.adapter>;
    using back = detail::slot_update<H, D, Spec.adapter>;

    // to(token, first + .) = sum over the token's slots of weight * rows(slot, .), experts ascending.
    template <class T>
    static void add_to_tokens(context<T>& ctx, const route::plan<T>& plan, const T* weight,
                              std::type_identity_t<matrix_view<const T>> rows, matrix_view<T> to,
                              index_t first) {
        kernel::for_each_owner(
            ctx.exec, plan.groups(), plan.token, to.rows, rows.cols,
            [&](index_t t0, index_t t1, index_t c0, index_t c1) {
                for (index_t t = t0; t < t1; ++t)
                    std::fill(to.row(t) + first + c0, to.row(t) + first + c1, T(0));
            },
            [&](index_t, index_t begin, index_t end, index_t c0, index_t c1) {
                for (index_t s = begin; s < end; ++s) {
                    T* sum = to.row(plan.token[s]) + first;
                    const T g = weight ? weight[s] : T(1);
                    for (index_t j = c0; j < c1; ++j) sum[j] += g * rows(s, j);
                }
            });
    }

    // body(expert, slot, first unit, units of one register)
    template <index_t Width = H, class T, class Body>
    static void for_each_unit(context<T>& ctx, kernel::group_view groups, Body&& body) {
        kernel::for_each_unit(ctx.exec, groups, 1,
                              [&](index_t e, index_t begin, index_t end, index_t, index_t) {
                                  for (index_t s = begin; s < end; ++s) {
                                      for (index_t j = 0; j < Width; j += simd::lanes<T>)
                                          body(e, s, j, std::min(simd::lanes<T>, Width - j));
                                  }
                              });
    }
};

}  // namespace mox::inline MOX_ABI
