#pragma once

#include <array>

#include <mox/core/parameter.hpp>
#include <mox/kernel/activation.hpp>
#include <mox/kernel/dense.hpp>
#include <mox/kernel/elementwise.hpp>
#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI::route {

/// logits = act(m W1 + b1) W2 + b2, where m is the token, or with `PerSequence` the mean of the tokens of its
/// sequence: one decision per sequence. W2 and b2 start at zero, so that all experts tie and the lowest ones
/// are chosen. The fine stage of MoVA (arXiv 2404.13046) scores [text feature, mean of the image's tokens]:
/// rows that hold the text feature beside their token have exactly that mean.
template <index_t Hidden, class Act = activation::silu, bool PerSequence = false>
struct mlp_scorer {
    static_assert(Hidden > 0, "mox::route::mlp_scorer: the number of hidden units must be positive");
    using policy = scorer_policy;
    static constexpr std::string_view name = "router";

    template <index_t In, index_t Outputs>
    static constexpr std::array parameters{
        parameter{.name = "router.in", .form = storage::panels, .rows = In, .cols = Hidden},
        parameter{.name = "router.in_bias", .cols = Hidden, .init = fill::zeros, .decays = false},
        parameter{.name = "router.out",
                  .form = storage::panels,
                  .rows = Hidden,
                  .cols = Outputs,
                  .init = fill::zeros},
        parameter{.name = "router.out_bias", .cols = Outputs, .init = fill::zeros, .decays = false}};
    template <index_t In, index_t Outputs>
    static constexpr double flops = 2.0 * Hidden*(In + Outputs);

    template <class T>
    struct record {
        matrix_view<const T> mean;  ///< rows that are scored x width
        matrix_view<const T> pre;   ///< before the activation
        matrix_view<const T> act;
    };

    template <index_t In, index_t Outputs, class T, class Context>
    static record<T> forward(Context& ctx, tensor_list<const T> w, matrix_view<const T> x,
                             matrix_view<T> logits) {
        matrix_view<const T> mean = x;
        if constexpr (PerSequence) mean = means<In, T>(ctx, x);
        const matrix_view<T> pre = ctx.activation(mean.rows, Hidden), act = ctx.activation(mean.rows, Hidden);
        kernel::dense<T>(ctx.exec, panels<In, Hidden>(w[0]), mean, pre);
        kernel::add_vector_rows<T>(ctx.exec, w[1], pre);
        for_each_unit<T>(ctx, pre.rows, [&](index_t t, index_t j, index_t n) {
            simd::store_upto(act.row(t) + j, Act::value(simd::load_upto<T>(pre.row(t) + j, n)), n);
        });
        if constexpr (PerSequence) {
            const arena_scope scope(*ctx.scratch);
            const matrix_view<T> once = ctx.temporary(mean.rows, Outputs);
            kernel::dense<T>(ctx.exec, panels<Hidden, Outputs>(w[2]), act, once);
            kernel::add_vector_rows<T>(ctx.exec, w[3], once);
            for_each_token(ctx,
                           [&](index_t s, index_t t) { std::copy_n(once.row(s), Outputs, logits.row(t)); });
        } else {
            kernel::dense<T>(ctx.exec, panels<Hidden, Outputs>(w[2]), act, logits);
            kernel::add_vector_rows<T>(ctx.exec, w[3], logits);
        }
        return {mean, pre, act};
    }

    template <index_t In, index_t Outputs, class T, class Context>
    static void backward(Context& ctx, tensor_list<const T> w, tensor_list<T> g, matrix_view<const T>,
                         const record<T>& r, matrix_view<const T> dlogits, matrix_view<T> dx) {
        const arena_scope scope(*ctx.scratch);
        matrix_view<const T> d = dlogits;
        if constexpr (PerSequence) {
            const matrix_view<T> sums = ctx.temporary(r.mean.rows, Outputs);
            for (index_t s = 0; s < sums.rows; ++s) std::fill_n(sums.row(s), Outputs, T(0));
            for_each_token(ctx, [&](index_t s, index_t t) {
                for (index_t e = 0; e < Outputs; ++e) sums(s, e) += dlogits(t, e);
            });
            d = sums;
        }
        const matrix_view<T> dh = ctx.temporary(r.mean.rows, Hidden);
        kernel::dense_transposed<T>(ctx.exec, panels<Hidden, Outputs>(w[2]), d, dh, false);
        for_each_unit<T>(ctx, dh.rows, [&](index_t t, index_t j, index_t n) {
            const auto slope = Act::derivative(simd::load_upto<T>(r.pre.row(t) + j, n));
            simd::store_upto(dh.row(t) + j, simd::load_upto<T>(dh.row(t) + j, n) * slope, n);
        });
        if (g[0]) {
            kernel::dense_weight_gradient<T>(ctx.exec, r.mean, dh, panels<In, Hidden>(g[0]), ctx.accumulate);
            kernel::sum_columns<T>(ctx.exec, dh, g[1], ctx.accumulate);
            kernel::dense_weight_gradient<T>(ctx.exec, r.act, d, panels<Hidden, Outputs>(g[2]),
                                             ctx.accumulate);
            kernel::sum_columns<T>(ctx.exec, d, g[3], ctx.accumulate);
        }
        if (!ctx.input_gradient) return;
        if constexpr (PerSequence) {
            const matrix_view<T> dmean = ctx.temporary(r.mean.rows, In);
            kernel::dense_transposed<T>(ctx.exec, panels<In, Hidden>(w[0]), dh, dmean, false);
            for_each_token(ctx, [&](index_t s, index_t t) {
                const T share = T(1) / static_cast<T>(ctx.rows.length(s));
                for (index_t j = 0; j < In; ++j) dx(t, j) += share * dmean(s, j);
            });
        } else {
            kernel::dense_transposed<T>(ctx.exec, panels<In, Hidden>(w[0]), dh, dx, true);
        }
    }

private:
    template <index_t Rows, index_t Cols, class T>
    static constexpr kernel::panel_view<T> panels(T* p) {
        return {p, Rows, kernel::panel_layout<std::remove_const_t<T>>::padded(Cols)};
    }

    // body(sequence, token), sequences in parallel, tokens in order.
    template <class Context, class Body>
    static void for_each_token(Context& ctx, Body&& body) {
        parallel_ranges(ctx.exec, ctx.rows.sequences, 4, [&](index_t first, index_t last) {
            for (index_t s = first; s < last; ++s) {
                for (index_t t = ctx.rows.begin(s); t < ctx.rows.begin(s) + ctx.rows.length(s); ++t)
                    body(s, t);
            }
        });
    }

    // Mean rows, zeros for sequences without tokens.
    template <index_t In, class T, class Context>
    static matrix_view<const T> means(Context& ctx, matrix_view<const T> x) {
        const matrix_view<T> mean = ctx.activation(ctx.rows.sequences, In);
        for (index_t s = 0; s < mean.rows; ++s) std::fill_n(mean.row(s), In, T(0));
        for_each_token(ctx, [&](index_t s, index_t t) {
            const T share = T(1) / static_cast<T>(ctx.rows.length(s));
            for (index_t j = 0; j < In; ++j) mean(s, j) += share * x(t, j);
        });
        return mean;
    }

    // body(row, first unit, units of one register)
    template <class T, class Context, class Body>
    static void for_each_unit(Context& ctx, index_t rows, Body&& body) {
        parallel_ranges(ctx.exec, rows, 32, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                for (index_t j = 0; j < Hidden; j += simd::lanes<T>)
                    body(t, j, std::min(simd::lanes<T>, Hidden - j));
            }
        });
    }
};

/// One decision per sequence by its mean: mlp_scorer with PerSequence. A stream never holds the whole
/// sequence: mox::decode throws mox::error.
template <index_t Hidden, class Act = activation::silu>
struct sequence_mlp_scorer : mlp_scorer<Hidden, Act, true> {
    static constexpr bool per_sequence = true;
};

}  // namespace mox::inline MOX_ABI::route
