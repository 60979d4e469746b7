#pragma once

#include <cmath>

#include <mox/kernel/attention.hpp>
#include <mox/kernel/rotary.hpp>
#include <mox/layer/adapt.hpp>
#include <mox/layer/linear.hpp>

namespace mox::inline MOX_ABI {

/// Shape and kind of a multi-head attention. Zero means: take the usual value.
struct attention_spec {
    index_t width = 0;
    index_t heads = 1;
    index_t kv_heads = 0;      ///< grouped keys (arXiv 2305.13245); 0: as many as heads
    index_t head_dim = 0;      ///< 0: width / heads
    bool rotary = true;        ///< rotary positions on queries and keys (arXiv 2104.09864)
    bool interleaved = false;  ///< rotary pairs (2i, 2i + 1) instead of (i, i + d/2)
    double rotary_base = 10000;
};

namespace mask {
/// A token sees itself and what came before in its sequence.
struct causal {
    static constexpr bool is_causal = true;
};
/// Every token sees its whole sequence.
struct full {
    static constexpr bool is_causal = false;
};
}  // namespace mask

/// Multi-head attention with input and output maps (arXiv 1706.03762). Publishes the attention each token
/// received, when a later layer reads it. `Adapter` wraps the maps: with_lora<spec> adapts a frozen
/// attention.
template <attention_spec Spec, class Mask = mask::causal, class Adapter = as_they_are>
struct attention {
    static_assert(Spec.width > 0 && Spec.heads > 0, "mox::attention: width and heads must be positive");
    static_assert(Spec.head_dim > 0 || Spec.width % Spec.heads == 0,
                  "mox::attention: the heads must divide the width, or give head_dim");
    static constexpr index_t heads = Spec.heads;
    static constexpr index_t kv_heads = Spec.kv_heads > 0 ? Spec.kv_heads : Spec.heads;
    static constexpr index_t head_dim = Spec.head_dim > 0 ? Spec.head_dim : Spec.width / Spec.heads;
    static_assert(heads % kv_heads == 0, "mox::attention: the key/value heads must divide the heads");
    static_assert(!Spec.rotary || head_dim % 2 == 0,
                  "mox::attention: rotary positions need an even head size");
    static_assert(
        requires {
            { Mask::is_causal } -> std::convertible_to<bool>;
        },
        "mox::attention: the mask must be mox::mask::causal or mox::mask::full");
    static_assert(detail::check_adapter<Adapter>());

    static constexpr std::string_view name = "attention";
    static constexpr index_t in = Spec.width;
    static constexpr index_t out = Spec.width;
    static constexpr index_t q_width = heads * head_dim;
    static constexpr index_t kv_width = kv_heads * head_dim;
    static constexpr index_t qkv_width = q_width + 2 * kv_width;
    using publishes = leaves<signal::attention_received>;

    /// Decoding keeps keys and values of the processed tokens.
    static constexpr index_t state_width = 2 * kv_width;

    using qkv_map =
        typename detail::around_fused<Adapter, linear<in, qkv_width>, q_width, kv_width, kv_width>::type;
    using out_map = typename Adapter::template around<linear<q_width, out, bias::none, true>>;
    using children = leaves<qkv_map, out_map>;
    static constexpr std::array<std::string_view, 2> child_names{"qkv", "out"};

    /// context: mean number of visible tokens.
    static constexpr double flops(double context) {
        return qkv_map::flops(context) + out_map::flops(context) + 4.0 * q_width * context;
    }

    template <class T>
    struct record {
        matrix_view<T> qkv, mixed;
        const T* lse;
        const T* table;
    };

    template <class T>
    static void forward(context<T>& ctx, param_ref<attention, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        const index_t n = x.rows;
        record<T> r{ctx.activation(n, qkv_width), ctx.activation(n, q_width), nullptr, nullptr};
        qkv_map::template forward<T>(ctx, w.template child<0>(), x, r.qkv);
        if constexpr (Spec.rotary) {
            index_t positions = 0;
            for (index_t t = 0; t < n; ++t)
                positions = std::max<index_t>(positions, ctx.rows.positions[t] + 1);
            const T* table = ctx.rotary->table(head_dim, Spec.rotary_base, positions);
            // The shared table may move when it grows; backward needs the one of this step.
            T* own = ctx.saving() ? ctx.saved->template take<T>(positions * head_dim) : nullptr;
            if (own) std::copy_n(table, positions * head_dim, own);
            r.table = own ? own : table;
            rotate(ctx, r.qkv, r.table, false);
        }
        const auto q = r.qkv.middle_cols(0, q_width);
        matrix_view<const T> k = r.qkv.middle_cols(q_width, kv_width);
        matrix_view<const T> v = r.qkv.middle_cols(q_width + kv_width, kv_width);
        kernel::attention_rows rows{ctx.rows.offsets, ctx.rows.offsets, ctx.rows.sequences};
        row_t key_offsets[2] = {0, 0};
        if (ctx.decoding()) {
            layer_state<T>& state = ctx.take_state();
            for (index_t t = 0; t < n; ++t) {
                T* to = state.data + (state.rows + t) * state_width;
                std::copy_n(k.row(t), kv_width, to);
                std::copy_n(v.row(t), kv_width, to + kv_width);
            }
            state.rows += n;
            key_offsets[1] = static_cast<row_t>(state.rows);
            rows.key = key_offsets;
            k = {state.data, state.rows, kv_width, state_width};
            v = {state.data + kv_width, state.rows, kv_width, state_width};
        }
        T* lse = ctx.saving() ? ctx.saved->template take<T>(n * heads) : nullptr;
        const matrix_view<T> board =
            ctx.decoding() ? matrix_view<T>{} : ctx.signals->template find<signal::attention_received>();
        {
            const arena_scope scope(*ctx.scratch);
            T* received = board.data ? ctx.scratch->template take<T>(n) : nullptr;
            kernel::attention_forward<T>(ctx.exec, *ctx.scratch, shape(), rows, q, k, v, r.mixed, lse,
                                         received);
            if (received) publish(ctx.rows, received, board);
        }
        out_map::template forward<T>(ctx, w.template child<1>(), r.mixed, y);
        r.lse = lse;
        ctx.save(r);
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<attention, const T> w, param_ref<attention, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto r = ctx.template restore<record<T>>();
        const index_t n = dy.rows;
        const arena_scope scope(*ctx.scratch);
        const matrix_view<T> dmixed = ctx.temporary(n, q_width);
        const matrix_view<T> dqkv = ctx.temporary(n, qkv_width);
        const bool wanted = ctx.input_gradient;
        ctx.input_gradient = true;
        out_map::template backward<T>(ctx, w.template child<1>(), g.template child<1>(), dy, dmixed);
        ctx.input_gradient = wanted;
        const kernel::attention_rows rows{ctx.rows.offsets, ctx.rows.offsets, ctx.rows.sequences};
        const matrix_view<T> taught = ctx.signal_gradients
                                          ? ctx.signal_gradients->template find<signal::attention_received>()
                                          : matrix_view<T>{};
        T* dreceived = taught.data ? ctx.scratch->template take<T>(n) : nullptr;
        if (dreceived) take_back(ctx.rows, taught, dreceived);
        kernel::attention_backward<T>(ctx.exec, *ctx.scratch, shape(), rows, r.qkv.middle_cols(0, q_width),
                                      r.qkv.middle_cols(q_width, kv_width),
                                      r.qkv.middle_cols(q_width + kv_width, kv_width), r.mixed, r.lse, dmixed,
                                      dqkv.middle_cols(0, q_width), dqkv.middle_cols(q_width, kv_width),
                                      dqkv.middle_cols(q_width + kv_width, kv_width), dreceived);
        if constexpr (Spec.rotary) rotate(ctx, dqkv, r.table, true);
        qkv_map::template backward<T>(ctx, w.template child<0>(), g.template child<0>(), dqkv, dx);
    }

private:
    static kernel::attention_shape shape() {
        return {heads, kv_heads, head_dim, Mask::is_causal, 1.0 / std::sqrt(static_cast<double>(head_dim))};
    }

    // Queries and keys lie side by side, so they rotate as one run of heads.
    template <class T>
    static void rotate(context<T>& ctx, matrix_view<T> qkv, const T* table, bool inverse) {
        kernel::rotate_rows<T>(
            ctx.exec, qkv, heads + kv_heads, head_dim, ctx.rows.positions, table,
            Spec.interleaved ? kernel::rotary_pairs::interleaved : kernel::rotary_pairs::half_split, inverse);
    }

    // The mean over heads and all queries, and over heads and the queries that may see the token, at the
    // tokens' rows in the whole batch.
    template <class T>
    static void publish(const sequence_view& rows, const T* received, matrix_view<T> board) {
        for_each_mean<T>(rows, [&](index_t t, row_t token, T all, T seeing) {
            board(token, 0) = all * received[t];
            board(token, 1) = seeing * received[t];
        });
    }

    // The gradient of what was published. It is used up: what an earlier layer published of these tokens was
    // overwritten, so nobody read it behind this layer.
    template <class T>
    static void take_back(const sequence_view& rows, matrix_view<T> board, T* dreceived) {
        for_each_mean<T>(rows, [&](index_t t, row_t token, T all, T seeing) {
            dreceived[t] = all * board(token, 0) + seeing * board(token, 1);
            board(token, 0) = board(token, 1) = T(0);
        });
    }

    template <class T, class Visit>
    static void for_each_mean(const sequence_view& rows, Visit&& visit) {
        for (index_t s = 0; s < rows.sequences; ++s) {
            const index_t begin = rows.begin(s), length = rows.length(s);
            for (index_t i = 0; i < length; ++i) {
                const index_t seeing = Mask::is_causal ? length - i : length;
                visit(begin + i, rows.token_of(begin + i), T(1) / static_cast<T>(heads * length),
                      T(1) / static_cast<T>(heads * seeing));
            }
        }
    }
};

}  // namespace mox::inline MOX_ABI
