#pragma once

// Feed-forward networks, alone and as experts: the same code runs a dense layer (one group, all rows) and a
// bank of experts (a plan's groups).

#include <mox/kernel/activation.hpp>
#include <mox/kernel/dot.hpp>
#include <mox/kernel/ffn_rows.hpp>
#include <mox/kernel/grouped.hpp>
#include <mox/layer/context.hpp>
#include <mox/layer/linear.hpp>

namespace mox::inline MOX_ABI {

/// The rows a bank of experts works on: which slots belong to which expert, the token each slot reads and
/// writes (null: slot i is row i), and the weight of its output (null: 1).
template <class T>
struct bank_rows {
    kernel::group_view groups;
    const row_t* token = nullptr;
    const T* gate = nullptr;
};

namespace detail {

// y[token] += gate * bias of the slot's expert, for every slot; biases of neighbouring experts lie `step`
// apart (0: they share one).
template <class T>
void add_output_bias(context<T>& ctx, const bank_rows<T>& rows, const T* bias, index_t step,
                     matrix_view<T> y) {
    kernel::for_each_owner(
        ctx.exec, rows.groups, rows.token, y.rows, y.cols, [](index_t, index_t, index_t, index_t) {},
        [&](index_t e, index_t begin, index_t end, index_t c0, index_t c1) {
            const T* b = bias + e * step;
            for (index_t s = begin; s < end; ++s) {
                T* to = y.row(rows.token ? rows.token[s] : s);
                const T g = rows.gate ? rows.gate[s] : T(1);
                for (index_t j = c0; j < c1; ++j) to[j] += g * b[j];
            }
        });
}

/// Two matrices with a non-linearity between them; Gated puts act(x Wg) * (x Wu) there.
template <index_t D, index_t H, class Act, bool Gated, bias Bias>
struct two_matrix_ffn {
    static_assert(D > 0 && H > 0, "mox: a feed-forward network needs positive widths");
    static_assert(!(Gated && Bias == bias::with), "mox: gated feed-forward networks have no biases");

    static constexpr index_t in = D;
    static constexpr index_t out = D;
    static constexpr index_t hidden = H;
    static constexpr bool biased = Bias == bias::with;

    static constexpr double flops(double /*context*/) { return (Gated ? 6.0 : 4.0) * D * H; }

    /// The tensors of `E` experts: 0 the first map, 1 the second, 2 and 3 their biases.
    template <index_t E>
    static constexpr auto bank_parameters = [] {
        constexpr parameter first{.name = Gated ? "gate_up" : "up",
                                  .form = Gated ? storage::gated_panels : storage::panels,
                                  .count = E,
                                  .rows = D,
                                  .cols = H};
        constexpr parameter second{.name = "down",
                                   .form = storage::panels,
                                   .count = E,
                                   .rows = H,
                                   .cols = D,
                                   .writes_residual = true};
        if constexpr (biased) {
            return std::array{first, second,
                              parameter{.name = "up_bias",
                                        .form = storage::rows,
                                        .rows = E,
                                        .cols = H,
                                        .init = fill::zeros,
                                        .decays = false},
                              parameter{.name = "down_bias",
                                        .form = storage::rows,
                                        .rows = E,
                                        .cols = D,
                                        .init = fill::zeros,
                                        .decays = false}};
        } else {
            return std::array{first, second};
        }
    }();

    template <class T>
    struct bank_record {
        bank_rows<T> rows;
        matrix_view<const T> x;
        matrix_view<T> pre;
    };

    template <class T>
    static constexpr index_t pre_columns() {
        using layout = kernel::panel_layout<T>;
        return Gated ? layout::padded_gated(H) : layout::padded(H);
    }
    template <class T>
    static constexpr kernel::panel_stack<T> first_map(T* p) {
        return {{p, D, pre_columns<std::remove_const_t<T>>()}};
    }
    template <class T>
    static constexpr kernel::panel_stack<T> second_map(T* p) {
        return {{p, H, kernel::panel_layout<std::remove_const_t<T>>::padded(D)}};
    }

    /// y[token] (+)= gate * f_e(x[token]) for every slot; without `accumulate` other rows of y become zero.
    template <class T>
    static void bank_forward(context<T>& ctx, tensor_list<const T> w, bank_rows<T> rows,
                             matrix_view<const T> x, matrix_view<T> y, bool accumulate) {
        using arch = simd::default_arch;
        constexpr index_t W = kernel::panel_width<T>;
        const arena_scope scope(*ctx.scratch);
        const index_t slots = rows.groups.slots();
        const matrix_view<T> h = ctx.temporary(slots, H);
        matrix_view<T> pre;
        if (ctx.saving()) pre = ctx.activation(slots, pre_columns<T>());
        const auto first = first_map(w[0]);
        const kernel::row_source<const T> source(x, rows.token);
        kernel::for_each_unit(
            ctx.exec, rows.groups, first.first.panels(),
            [&](index_t e, index_t begin, index_t end, index_t piece, index_t pieces) {
                const kernel::piece_range p(first.first.panels(), piece, pieces);
                kernel::product_tiles<T, arch>(
                    source, begin, end, first[e], p.begin, p.end,
                    [&](index_t slot, index_t count, index_t panel, index_t width) {
                        constexpr index_t size = static_cast<index_t>(sizeof(T));
                        constexpr index_t parts = Gated ? 2 : 1;
                        for (index_t r = slot; r < slot + count; ++r) {
                            simd::prefetch_to_write(h.row(r) + panel * (W / parts), width / parts * size);
                            if (pre.data) simd::prefetch_to_write(pre.row(r) + panel * W, width * size);
                        }
                    },
                    [&](index_t slot, index_t count, index_t panel, T* tile, index_t width) {
                        for (index_t r = 0; r < count; ++r, tile += W) {
                            if constexpr (biased) {
                                const index_t valid = std::min(width, H - panel * W);
                                const T* b = w[2] + e * H + panel * W;
                                for (index_t j = 0; j < valid; ++j) tile[j] += b[j];
                            }
                            if (pre.data) std::copy_n(tile, width, pre.row(slot + r) + panel * W);
                            if constexpr (Gated) {
                                kernel::gated_tile_row<T, arch, Act>(tile, width,
                                                                     h.row(slot + r) + panel * (W / 2));
                            } else {
                                kernel::plain_tile_row<T, arch, Act>(tile, width,
                                                                     h.row(slot + r) + panel * W);
                            }
                        }
                    },
                    kernel::detail::next_group_panel(rows.groups, first, e, p.begin));
            });
        kernel::grouped_product_to_tokens<T>(ctx.exec, rows.groups, rows.token,
                                             kernel::row_source<const T>(h), rows.gate, second_map(w[1]), y,
                                             accumulate);
        if constexpr (biased) add_output_bias(ctx, rows, w[3], D, y);
        ctx.save(bank_record<T>{rows, x, pre});
    }

    /// dh: in, the gradients of the hidden rows for weight 1; out, gate * h. pre: in, the pre-activations;
    /// out, their gradients. dgate: one value per slot, or null.
    template <class T>
    static void hidden_backward(context<T>& ctx, tensor_list<const T> w, const bank_rows<T>& rows,
                                matrix_view<T> pre, matrix_view<T> dh, kernel::row_source<const T> dy,
                                T* dgate) {
        using arch = simd::default_arch;
        kernel::for_each_unit(
            ctx.exec, rows.groups, 1, [&](index_t e, index_t begin, index_t end, index_t, index_t) {
                for (index_t s = begin; s < end; ++s) {
                    const T weight = rows.gate ? rows.gate[s] : T(1);
                    T d;
                    if constexpr (Gated) {
                        d = kernel::gated_backward_row<T, arch, Act>(pre.row(s), dh.row(s), H, weight);
                    } else {
                        d = kernel::plain_backward_row<T, arch, Act>(pre.row(s), dh.row(s), H, weight);
                    }
                    if (dgate) {
                        if constexpr (biased) d += kernel::dot_row<T>(dy(s), w[3] + e * D, D);
                        dgate[s] = d;
                    }
                }
            });
    }

    /// Gradients of a bank_forward. dgate: one value per slot, or null. dx is overwritten; rows without a
    /// slot become zero.
    template <class T>
    static void bank_backward(context<T>& ctx, tensor_list<const T> w, tensor_list<T> g,
                              matrix_view<const T> dy, matrix_view<T> dx, T* dgate) {
        const auto saved = ctx.template restore<bank_record<T>>();
        const bank_rows<T>& rows = saved.rows;
        const arena_scope scope(*ctx.scratch);
        const index_t slots = rows.groups.slots();
        const matrix_view<T> dh = ctx.temporary(slots, H);
        const kernel::row_source<const T> dy_rows(dy, rows.token);

        kernel::grouped_transposed<T>(ctx.exec, rows.groups, dy_rows, D, second_map(w[1]),
                                      {kernel::row_source<T>(dh), H, nullptr, false});
        hidden_backward(ctx, w, rows, saved.pre, dh, dy_rows, dgate);
        if (g[0]) {
            kernel::grouped_weight_gradient<T>(ctx.exec, rows.groups, kernel::row_source<const T>(dh),
                                               dy_rows, D, second_map(g[1]), ctx.accumulate);
            kernel::grouped_weight_gradient<T>(
                ctx.exec, rows.groups, kernel::row_source<const T>(saved.x, rows.token),
                kernel::row_source<const T>(saved.pre), pre_columns<T>(), first_map(g[0]), ctx.accumulate);
            if constexpr (biased) {
                bias_gradient<T>(ctx, rows, kernel::row_source<const T>(saved.pre), nullptr, H, g[2]);
                bias_gradient<T>(ctx, rows, dy_rows, rows.gate, D, g[3]);
            }
        }
        if (ctx.input_gradient) {
            kernel::grouped_transposed_to_tokens<T>(ctx.exec, rows.groups, rows.token,
                                                    kernel::row_source<const T>(saved.pre), pre_columns<T>(),
                                                    first_map(w[0]), dx, false);
        }
    }

private:
    // db_e (+)= sum over the slots of e of scale * d[slot].
    template <class T>
    static void bias_gradient(context<T>& ctx, const bank_rows<T>& rows, kernel::row_source<const T> d,
                              const T* scale, index_t cols, T* db) {
        ctx.exec.run(rows.groups.count, [&](index_t e) {
            T* to = db + e * cols;
            if (!ctx.accumulate) std::fill_n(to, cols, T(0));
            for (index_t s = rows.groups.begin(e); s < rows.groups.end(e); ++s) {
                const T* from = d(s);
                const T g = scale ? scale[s] : T(1);
                for (index_t j = 0; j < cols; ++j) to[j] += g * from[j];
            }
        });
    }
};

/// The body with weights in format `Weight`; layer/packed_ffn.hpp has those of fewer bits.
template <index_t D, index_t H, class Act, bool Gated, bias Bias, class Weight>
struct ffn_with_weights {
    using type = two_matrix_ffn<D, H, Act, Gated, Bias>;
};
template <index_t D, index_t H, class Act, bool Gated, bias Bias, class Weight>
using ffn_body = typename ffn_with_weights<D, H, Act, Gated, Bias, Weight>::type;

}  // namespace detail

/// A feed-forward body as a layer: every row passes. Also what a user writes as the expert of a bank.
template <class Body>
struct feed_forward : Body {
    static constexpr auto parameters = Body::template bank_parameters<1>;

    template <class T>
    static void forward(context<T>& ctx, param_ref<feed_forward, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        // The single group's offsets must outlive this call: backward reads them.
        row_t* whole = ctx.kept->template take<row_t>(2);
        whole[0] = 0;
        whole[1] = static_cast<row_t>(x.rows);
        Body::template bank_forward<T>(ctx, w.tensors(), {{whole, 1}, nullptr, nullptr}, x, y, false);
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<feed_forward, const T> w, param_ref<feed_forward, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        Body::template bank_backward<T>(ctx, w.tensors(), g.tensors(), dy, dx, nullptr);
    }
};

/// f(x) = (silu(x Wg) * (x Wu)) Wd (GLU Variants Improve Transformer, arXiv 2002.05202). D in and out.
/// `Weight`: the format of the weights, weight::bf16, weight::int8<> or weight::int4<> for inference.
template <index_t D, index_t H, class Weight = weight::f32>
using swiglu = feed_forward<detail::ffn_body<D, H, activation::silu, true, bias::none, Weight>>;

/// The gated form with any activation: geglu is gated_ffn<D, H, activation::gelu>.
template <index_t D, index_t H, class Act, class Weight = weight::f32>
using gated_ffn = feed_forward<detail::ffn_body<D, H, Act, true, bias::none, Weight>>;

/// f(x) = act(x W1 + b1) W2 + b2; biases on request.
template <index_t D, index_t H, class Act = activation::gelu, bias Bias = bias::none,
          class Weight = weight::f32>
using mlp = feed_forward<detail::ffn_body<D, H, Act, false, Bias, Weight>>;

}  // namespace mox::inline MOX_ABI

#include <mox/layer/packed_ffn.hpp>
