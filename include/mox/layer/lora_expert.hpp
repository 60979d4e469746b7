#pragma once

// The experts of a trained mixture with low-rank updates of their own: each map of each expert stays as it
// is, and what it computes is corrected by s (x A_e') B_e (LoRA, arXiv 2106.09685).

#include <array>

#include <mox/layer/adapt.hpp>
#include <mox/layer/slot_update.hpp>

namespace mox::inline MOX_ABI {

/// An expert as in mox::experts whose maps are frozen, and one low-rank update for each map of each expert,
/// trained. Takes over the tensors of the expert alone (mox::copy_matching), starts as it, and mox::merge
/// puts the updates into it again:
///     moe<experts<8, swiglu<64, 96>>, policies...>
///     moe<experts<8, lora_expert<swiglu<64, 96>, r8>>, policies...>
/// The router is trained as before; route::frozen_linear_scorer keeps it. Expert: mox::swiglu,
/// mox::gated_ffn or mox::mlp, with weights of full precision; mox::with_weights leaves it alone, so merge
/// before packing.
template <class Expert, adapter_spec Spec>
struct lora_expert {
    static_assert(!std::is_same_v<Expert, Expert>,
                  "mox::lora_expert: the expert must be mox::swiglu, mox::gated_ffn or mox::mlp with weights "
                  "of full precision");
};

template <index_t D, index_t H, class Act, bool Gated, bias Bias, adapter_spec Spec>
struct lora_expert<feed_forward<detail::two_matrix_ffn<D, H, Act, Gated, Bias>>, Spec> {
    static_assert(Spec.rank > 0, "mox: an adapter needs a positive rank, such as adapter_spec{.rank = 8}");
    static_assert(Spec.dropout >= 0 && Spec.dropout < 1, "mox: the dropout of an adapter must lie in [0, 1)");
    static_assert(Spec.kept_ranks == 0, "mox::lora_expert: kept_ranks is for mox::lora; experts have none");

    using base = detail::two_matrix_ffn<D, H, Act, Gated, Bias>;

    static constexpr index_t in = D;
    static constexpr index_t out = D;
    static constexpr index_t update_rank = Spec.rank;
    static constexpr double update_scale = Spec.scale();
    static constexpr bool gated = Gated;
    static constexpr bool draws = Spec.dropout > 0;

    static constexpr double flops(double context) {
        return base::flops(context) + (Gated ? 6.0 : 4.0) * Spec.rank * (D + H);
    }

    // Behind the base's tensors two factors for each map.
    static constexpr index_t gate_at = Bias == bias::with ? 4 : 2, up_at = gate_at + (Gated ? 2 : 0),
                             down_at = up_at + 2, tensors = down_at + 2;

    template <index_t E>
    static constexpr auto bank_parameters = [] {
        std::array<parameter, static_cast<std::size_t>(tensors)> all{};
        std::size_t at = 0;
        for (parameter p : base::template bank_parameters<E>) {
            p.trained = false;
            all[at++] = p;
        }
        const auto add = [&](std::string_view a, std::string_view b, index_t from, index_t to) {
            all[at++] = Spec.down(a, E, from);
            all[at++] = Spec.up(b, E, to);
        };
        if (Gated) add("gate_a", "gate_b", D, H);
        add("up_a", "up_b", D, H);
        add("down_a", "down_b", H, D);
        return all;
    }();

    template <class T>
    struct bank_record {
        bank_rows<T> rows;
        matrix_view<const T> x;
        matrix_view<T> pre;           ///< slots x the first map's columns, in panel order
        matrix_view<T> zg, zu, zd;    ///< slots x rank: s times what the updates' A gives
        matrix_view<const T> xg, xu;  ///< x after dropout
        dropout_draw drop;
    };

    /// y[token] (+)= gate * f_e(x[token]) for every slot; without `accumulate` other rows of y become zero.
    template <class T>
    static void bank_forward(context<T>& ctx, tensor_list<const T> w, bank_rows<T> rows,
                             matrix_view<const T> x, matrix_view<T> y, bool accumulate) {
        using arch = simd::default_arch;
        const kernel::group_view groups = rows.groups;
        const index_t slots = groups.slots();
        bank_record<T> r{};
        r.rows = rows;
        r.x = x;
        if constexpr (draws) r.drop = dropout_draw::next(ctx, Spec.dropout);
        r.pre = ctx.activation(slots, base::template pre_columns<T>());
        kernel::grouped_product<T>(ctx.exec, groups, kernel::row_source<const T>(x, rows.token),
                                   base::first_map(w[0]), {kernel::row_source<T>(r.pre), r.pre.cols});
        for (matrix_view<T>* z : {&r.zg, &r.zu, &r.zd}) {
            if (Gated || z != &r.zg) *z = ctx.activation(slots, Spec.rank);
        }
        r.xu = detail::dropped_rows<T>(ctx, r.drop, up_at, x);
        if constexpr (Gated) r.xg = detail::dropped_rows<T>(ctx, r.drop, gate_at, x);
        const arena_scope scope(*ctx.scratch);
        const matrix_view<T> h = ctx.temporary(slots, H);
        if constexpr (Gated) {
            const matrix_view<T> gate = ctx.temporary(slots, H), up = ctx.temporary(slots, H);
            front::forward(ctx, groups, w[gate_at], w[gate_at + 1],
                           kernel::row_source<const T>(r.xg, rows.token), r.zg, gate, false);
            front::forward(ctx, groups, w[up_at], w[up_at + 1], kernel::row_source<const T>(r.xu, rows.token),
                           r.zu, up, false);
            parallel_ranges(ctx.exec, slots, 16, [&](index_t begin, index_t end) {
                for (index_t s = begin; s < end; ++s)
                    kernel::add_gated_row<T, arch>(gate.row(s), up.row(s), H, r.pre.row(s));
            });
            kernel::gated_rows<T, Act>(ctx.exec, r.pre, h);
        } else {
            front::forward(ctx, groups, w[up_at], w[up_at + 1], kernel::row_source<const T>(r.xu, rows.token),
                           r.zu, r.pre);
            kernel::for_each_unit(ctx.exec, groups, 1,
                                  [&](index_t e, index_t begin, index_t end, index_t, index_t) {
                                      for (index_t s = begin; s < end; ++s)
                                          activate(w, e, r.pre.row(s), h.row(s));
                                  });
        }
        const auto place = [&](index_t n, index_t cols) { return ctx.temporary(n, cols); };
        back::project(ctx, groups, w[down_at],
                      kernel::row_source<const T>(detail::dropped_rows<T>(ctx, r.drop, down_at, h, place)),
                      r.zd);
        kernel::grouped_product_to_tokens<T>(ctx.exec, groups, rows.token, kernel::row_source<const T>(h),
                                             rows.gate, base::second_map(w[1]), y, accumulate);
        kernel::grouped_product_to_tokens<T>(
            ctx.exec, groups, rows.token, kernel::row_source<const T>(r.zd), rows.gate,
            back::ranks::stack(back::ranks::up(w[down_at + 1], groups.count)), y, true);
        if constexpr (base::biased) detail::add_output_bias(ctx, rows, w[3], D, y);
        ctx.save(r);
    }

    /// Gradients of a bank_forward. dgate: one value per slot, or null. dx is overwritten; rows without a
    /// slot become zero.
    template <class T>
    static void bank_backward(context<T>& ctx, tensor_list<const T> w, tensor_list<T> g,
                              matrix_view<const T> dy, matrix_view<T> dx, T* dgate) {
        using arch = simd::default_arch;
        const auto r = ctx.template restore<bank_record<T>>();
        const bank_rows<T>& rows = r.rows;
        const kernel::group_view groups = rows.groups;
        const arena_scope scope(*ctx.scratch);
        const index_t slots = groups.slots(), experts = groups.count;
        const kernel::row_source<const T> dy_rows(dy, rows.token);
        const matrix_view<T> dh = ctx.temporary(slots, H), dz = ctx.temporary(slots, Spec.rank);

        // Without the slot's gate: dh, and dz of the map behind.
        kernel::grouped_transposed<T>(ctx.exec, groups, dy_rows, D, base::second_map(w[1]),
                                      {kernel::row_source<T>(dh), H});
        back::transposed(ctx, groups, w[down_at + 1], dy_rows, dz);
        detail::through_dropout(ctx, r.drop, down_at, dh, [&](matrix_view<T> to) {
            kernel::grouped_product<T>(ctx.exec, groups, kernel::row_source<const T>(dz),
                                       back::ranks::stack(back::ranks::down(w[down_at], experts)),
                                       {kernel::row_source<T>(to), H, nullptr, true});
        });
        base::hidden_backward(ctx, w, rows, r.pre, dh, dy_rows, dgate);
        if (g[down_at]) {
            for (index_t i = 0; rows.gate && i < slots; ++i) {
                for (index_t j = 0; j < Spec.rank; ++j) r.zd(i, j) *= rows.gate[i];
            }
            const auto place = [&](index_t n, index_t cols) { return ctx.temporary(n, cols); };
            back::gradients(
                ctx, groups, g[down_at], g[down_at + 1],
                kernel::row_source<const T>(detail::dropped_rows<T>(ctx, r.drop, down_at, dh, place)),
                kernel::row_source<const T>(r.zd), dy_rows, dz);
        }
        if (ctx.input_gradient) {
            kernel::grouped_transposed_to_tokens<T>(ctx.exec, groups, rows.token,
                                                    kernel::row_source<const T>(r.pre), r.pre.cols,
                                                    base::first_map(w[0]), dx, false);
        }
        const auto into_map = [&](index_t at, matrix_view<const T> x, matrix_view<T> z, matrix_view<T> dout) {
            front::backward(ctx, groups, w[at + 1], g[at], g[at + 1],
                            kernel::row_source<const T>(x, rows.token), kernel::row_source<const T>(z),
                            kernel::row_source<const T>(dout), dz);
            if (!ctx.input_gradient) return;
            detail::through_dropout(ctx, r.drop, at, dx, [&](matrix_view<T> to) {
                kernel::grouped_product_to_tokens<T>(
                    ctx.exec, groups, rows.token, kernel::row_source<const T>(dz),
                    static_cast<const T*>(nullptr), front::ranks::stack(front::ranks::down(w[at], experts)),
                    to, true);
            });
        };
        if constexpr (Gated) {
            const matrix_view<T> gate = ctx.temporary(slots, H), up = ctx.temporary(slots, H);
            parallel_ranges(ctx.exec, slots, 16, [&](index_t begin, index_t end) {
                for (index_t s = begin; s < end; ++s)
                    kernel::split_gated_row<T, arch>(r.pre.row(s), H, gate.row(s), up.row(s));
            });
            into_map(gate_at, r.xg, r.zg, gate);
            into_map(up_at, r.xu, r.zu, up);
        } else {
            into_map(up_at, r.xu, r.zu, r.pre);
        }
    }

private:
    using front = detail::slot_update<D, H, Spec>;
    using back = detail::slot_update<H, D, Spec>;

    // Bias and activation of a row of the plain form, whose units lie in order.
    template <class T>
    static void activate(tensor_list<const T> w, index_t e, T* pre, T* h) {
        using arch = simd::default_arch;
        for (index_t j = 0; j < H; j += simd::lanes<T>) {
            const index_t count = std::min(simd::lanes<T>, H - j);
            auto v = simd::load_upto<T, arch>(pre + j, count);
            if constexpr (base::biased) v = v + simd::load_upto<T, arch>(w[2] + e * H + j, count);
            simd::store_upto(pre + j, v, count);
            simd::store_upto(h + j, Act::value(v), count);
        }
    }
};

}  // namespace mox::inline MOX_ABI
