#pragma once

// Mixture of depths: a score decides which tokens of a sequence go through a block; the others keep their
// value. The selected tokens form a shorter ragged batch with their original positions, so any block works.

#include <limits>

#include <mox/kernel/elementwise.hpp>
#include <mox/kernel/topk.hpp>
#include <mox/layer/context.hpp>
#include <mox/route/depth_policy.hpp>
#include <mox/route/depth_sampling.hpp>
#include <mox/route/depth_score.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

template <class P>
consteval bool check_depth_policy() {
    static_assert(
        route::is_any_kind<P, route::score_policy, route::keep_policy, route::always_policy,
                           route::weighting_policy, route::sampling_policy, route::score_gradient_policy>,
        "mox::depth: this argument is not a depth policy; expected a score (route::learned, "
        "route::attention_received, route::random), keep_permille, always_first, a weighting, a sampling "
        "or a score_gradient policy");
    return true;
}

template <std::size_t A, std::size_t B>
constexpr std::array<parameter, A + B> both_lists(const std::array<parameter, A>& a,
                                                  const std::array<parameter, B>& b) {
    std::array<parameter, A + B> all{};
    std::copy(a.begin(), a.end(), all.begin());
    std::copy(b.begin(), b.end(), all.begin() + A);
    return all;
}

}  // namespace detail

/// Mixture of depths around `Block` (arXiv 2404.02258; with route::attention_received A-MoD, arXiv
/// 2412.20875). y_t = x_t + a(r_t) (Block(x_S)_t - x_t) for the selected tokens S, y_t = x_t for the others.
/// Policies in any order: one score, one capacity (keep_permille, keep_annealed), and optionally
///   a weighting        default sigmoid for route::learned, none otherwise
///   a sampling rule    default auxiliary_loss<> for route::learned, whole_sequence otherwise
///   a score_gradient   default kept for route::learned, cut otherwise
///   always_first<N>    tokens that always pass
template <class Block, class... Policies>
struct depth {
    static_assert((detail::check_depth_policy<Policies>() && ... && true));
    static_assert(route::all_of_kind<route::score_policy, Policies...>::size == 1,
                  "mox::depth: exactly one score is needed: mox::route::learned, "
                  "mox::route::attention_received or mox::route::random");
    static_assert(route::all_of_kind<route::keep_policy, Policies...>::size == 1,
                  "mox::depth: exactly one capacity is needed, such as mox::keep_permille<500>");
    static_assert(Block::in == Block::out, "mox::depth: the block must have the same width in and out");

    using score = typename route::all_of_kind<route::score_policy, Policies...>::template at<0>;
    using keep = typename route::all_of_kind<route::keep_policy, Policies...>::template at<0>;
    static constexpr bool learned = std::is_same_v<score, route::learned>;
    using weight =
        route::one_of_kind<route::weighting_policy,
                           std::conditional_t<learned, weighting::sigmoid, weighting::none>, Policies...>;
    using rule =
        route::one_of_kind<route::sampling_policy,
                           std::conditional_t<learned, sampling::auxiliary_loss<>, sampling::whole_sequence>,
                           Policies...>;
    using gradient =
        route::one_of_kind<route::score_gradient_policy,
                           std::conditional_t<learned, score_gradient::kept, score_gradient::cut>,
                           Policies...>;
    using always = route::one_of_kind<route::always_policy, always_first<0>, Policies...>;

    static_assert(!rule::causal || !rule::reads_score || !score::whole_sequence,
                  "mox::depth: this score needs the whole sequence and has no causal threshold; use "
                  "sampling::predictor or sampling::whole_sequence");
    static_assert(score::differentiable || !gradient::flows,
                  "mox::depth: this score has no gradient that could be kept");
    /// The loss depends on the score itself, not only on who was selected.
    static constexpr bool scored = weight::weighted || (rule::trained && rule::reads_score);
    static_assert(scored || learned || !gradient::flows,
                  "mox::depth: the gradient of a score that only selects is zero; keep it together with a "
                  "weighting");
    /// The gradient goes on to what the score was computed from.
    static constexpr bool score_teaches = scored && score::differentiable && gradient::flows;

    static constexpr std::string_view name = "depth";
    static constexpr index_t in = Block::in;
    static constexpr index_t out = Block::out;
    static constexpr double share = keep::share;
    static constexpr bool draws = requires { score::draws; };
    /// Wrapping a block adds no level to the names of its parameters (model/transfer.hpp).
    static constexpr bool transparent = true;

    using children = leaves<Block>;
    using reads = typename score::reads;
    using teaches = std::conditional_t<score_teaches, reads, leaves<>>;

    static constexpr auto parameters =
        detail::both_lists(score::template parameters<in>, rule::template parameters<in>);

    /// The linear parts of the block cost c, attention among the kept tokens c * c.
    static constexpr double flops(double context) {
        return score::flops(in) + rule::flops(in) + share * Block::flops(share * context);
    }
    static constexpr double child_active_share(std::size_t) { return share; }

    template <class T>
    struct record {
        matrix_view<const T> x;
        matrix_view<const T> inner_x, inner_y;
        const T* scores;
        const row_t* selected;
        sequence_view inner;
        typename rule::template record<T> sampling;
    };

    template <class T>
    static void forward(context<T>& ctx, param_ref<depth, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        const index_t n = x.rows;
        const sequence_view outer = ctx.rows;
        const bool threshold = rule::causal && ctx.mode == phase::evaluate;
        record<T> r{};
        r.x = x;
        if (ctx.decoding()) {
            check::that(
                rule::causal && !(score::whole_sequence && weight::weighted), "mox::decode",
                "a depth layer whose selection or weight needs the whole sequence cannot decode token "
                "by token; give it a causal rule such as sampling::predictor");
        }

        // Decoding with a predictor never asks for a score that would need the whole sequence.
        if (!threshold || rule::reads_score || weight::weighted) {
            T* scores = ctx.kept->template take<T>(n);
            score::template forward<T>(ctx, w.tensors(), x, share, scores);
            r.scores = scores;
        }
        if constexpr (rule::causal) {
            if (threshold || rule::trained) {
                r.sampling = rule::template forward<T>(ctx, w.tensors().from(score_tensors), x, r.scores);
            }
        }

        row_t* selected = ctx.kept->template take<row_t>(n);
        row_t* offsets = ctx.kept->template take<row_t>(outer.sequences + 1);
        if (threshold) {
            select_positive(outer, r.sampling, selected, offsets);
        } else {
            select_capacity(ctx, outer, r.scores, selected, offsets);
        }
        const index_t kept = offsets[outer.sequences];
        r.selected = selected;

        // The selected rows as a batch of their own.
        row_t* positions = ctx.kept->template take<row_t>(kept);
        row_t* token = ctx.kept->template take<row_t>(kept);
        for (index_t i = 0; i < kept; ++i) {
            positions[i] = outer.positions[selected[i]];
            token[i] = outer.token_of(selected[i]);
        }
        r.inner = {offsets, outer.sequences, positions, token, outer.labels, outer.allowed};

        if constexpr (rule::trained) {
            if (ctx.mode == phase::train && n > 0) {
                T sum = 0;
                for_each_selected(n, r, [&](index_t t, bool taken) {
                    sum += sampling::detail::binary_cross_entropy(r.sampling.logits[t], taken);
                });
                ctx.aux_loss += ctx.aux_scale * static_cast<T>(rule::scale) * sum / static_cast<T>(n);
            }
        }
        if (ctx.routing) {
            routing_record log;
            log.kind = routing_record::kind_t::depth;
            log.layer = type_id<depth>();
            log.rows = n;
            log.token = outer.token;
            log.selected = selected;
            log.selected_count = kept;
            ctx.routing->push_back(log);
        }

        kernel::copy_rows<T>(ctx.exec, x, y);
        if (kept == 0 && !ctx.saving()) {
            // The layers behind must find their own states, streams and numbers.
            ctx.next_state += ctx.decoding() ? state_count<Block>() : 0;
            ctx.next_draw += draw_count<Block>();
            ctx.next_observed += observed_count<Block>();
            return;
        }
        const matrix_view<T> inner_x = ctx.activation(kept, in);
        const matrix_view<T> inner_y = ctx.activation(kept, in);
        kernel::gather_rows<T>(ctx.exec, x, selected, inner_x);
        ctx.rows = r.inner;
        Block::template forward<T>(ctx, w.template child<0>(), inner_x, inner_y);
        ctx.rows = outer;
        parallel_ranges(ctx.exec, kept, 64, [&](index_t begin, index_t end) {
            for (index_t i = begin; i < end; ++i) {
                T* to = y.row(selected[i]);
                const T* from = inner_y.row(i);
                if constexpr (weight::weighted) {
                    const T a = weight::value(r.scores[selected[i]]);
                    for (index_t j = 0; j < in; ++j) to[j] += a * (from[j] - to[j]);
                } else {
                    std::copy_n(from, in, to);
                }
            }
        });
        r.inner_x = inner_x;
        r.inner_y = inner_y;
        ctx.save(r);
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<depth, const T> w, param_ref<depth, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto r = ctx.template restore<record<T>>();
        const index_t n = dy.rows;
        const index_t kept = r.inner.rows();
        const arena_scope scope(*ctx.scratch);
        const matrix_view<T> inner_dy = ctx.temporary(kept, in);
        const matrix_view<T> inner_dx = ctx.temporary(kept, in);
        T* dscores = ctx.scratch->template take<T>(n);
        std::fill_n(dscores, n, T(0));

        parallel_ranges(ctx.exec, kept, 64, [&](index_t begin, index_t end) {
            for (index_t i = begin; i < end; ++i) {
                const row_t t = r.selected[i];
                const T* from = dy.row(t);
                T* to = inner_dy.row(i);
                if constexpr (weight::weighted) {
                    const T a = weight::value(r.scores[t]);
                    const T* bx = r.inner_x.row(i);
                    const T* by = r.inner_y.row(i);
                    T dot = 0;
                    for (index_t j = 0; j < in; ++j) {
                        to[j] = a * from[j];
                        dot += from[j] * (by[j] - bx[j]);
                    }
                    dscores[t] = weight::derivative(r.scores[t]) * dot;
                } else {
                    std::copy_n(from, in, to);
                }
            }
        });
        if constexpr (rule::trained) {
            const T scale =
                ctx.aux_scale * static_cast<T>(rule::scale) / static_cast<T>(std::max<index_t>(n, 1));
            T* dlogits = ctx.scratch->template take<T>(n);
            for_each_selected(n, r, [&](index_t t, bool taken) {
                dlogits[t] =
                    scale * sampling::detail::binary_cross_entropy_derivative(r.sampling.logits[t], taken);
            });
            rule::template backward<T>(ctx, w.tensors().from(score_tensors), g.tensors().from(score_tensors),
                                       r.x, r.sampling, dlogits, dscores);
        }

        const sequence_view outer = ctx.rows;
        const bool wanted = ctx.input_gradient;
        ctx.rows = r.inner;
        Block::template backward<T>(ctx, w.template child<0>(), g.template child<0>(), inner_dy, inner_dx);
        ctx.rows = outer;
        ctx.input_gradient = wanted;

        if (wanted) {
            kernel::copy_rows<T>(ctx.exec, dy, dx);
            parallel_ranges(ctx.exec, kept, 64, [&](index_t begin, index_t end) {
                for (index_t i = begin; i < end; ++i) {
                    const row_t t = r.selected[i];
                    T* to = dx.row(t);
                    const T* from = inner_dx.row(i);
                    if constexpr (weight::weighted) {
                        const T rest = T(1) - weight::value(r.scores[t]);
                        for (index_t j = 0; j < in; ++j) to[j] = rest * to[j] + from[j];
                    } else {
                        std::copy_n(from, in, to);
                    }
                }
            });
        }
        if constexpr (score_teaches || score_tensors > 0) {
            score::template backward<T>(ctx, w.tensors(), g.tensors(), r.x, dscores,
                                        wanted && gradient::flows ? dx : matrix_view<T>{});
        }
    }

private:
    static constexpr index_t score_tensors = static_cast<index_t>(score::template parameters<in>.size());

    // visit(t, selected) for all rows in order.
    template <class T, class Visit>
    static void for_each_selected(index_t n, const record<T>& r, Visit&& visit) {
        const index_t kept = r.inner.rows();
        index_t next = 0;
        for (index_t t = 0; t < n; ++t) {
            const bool taken = next < kept && r.selected[next] == t;
            next += taken ? 1 : 0;
            visit(t, taken);
        }
    }

    static bool passes_always(const sequence_view& rows, index_t t) {
        return always::tokens > 0 && rows.positions[t] < always::tokens;
    }

    // Those whose logit is positive: sigmoid > 1/2, a decision that no other token has a part in.
    template <class Record>
    static void select_positive(const sequence_view& rows, const Record& logits, row_t* selected,
                                row_t* offsets) {
        offsets[0] = 0;
        index_t kept = 0;
        for (index_t s = 0; s < rows.sequences; ++s) {
            for (index_t t = rows.begin(s); t < rows.begin(s) + rows.length(s); ++t) {
                if (logits.logits[t] > 0 || passes_always(rows, t)) selected[kept++] = static_cast<row_t>(t);
            }
            offsets[s + 1] = static_cast<row_t>(kept);
        }
    }

    // The largest scores of each sequence, up to the capacity.
    template <class T>
    static void select_capacity(context<T>& ctx, const sequence_view& rows, const T* scores, row_t* selected,
                                row_t* offsets) {
        offsets[0] = 0;
        const arena_scope scope(*ctx.scratch);
        const index_t longest = rows.longest();
        row_t* scratch = ctx.scratch->template take<row_t>(longest);
        T* raised = always::tokens > 0 ? ctx.scratch->template take<T>(longest) : nullptr;
        for (index_t s = 0; s < rows.sequences; ++s) {
            const index_t begin = rows.begin(s), length = rows.length(s);
            const T* values = scores + begin;
            index_t kept = keep::kept(length, ctx.mode == phase::train ? ctx.progress : 1.0);
            if (raised) {
                index_t sure = 0;
                for (index_t t = 0; t < length; ++t) {
                    const bool always_in = passes_always(rows, begin + t);
                    raised[t] = always_in ? std::numeric_limits<T>::infinity() : values[t];
                    sure += always_in ? 1 : 0;
                }
                values = raised;
                kept = std::max(kept, sure);
            }
            row_t* to = selected + offsets[s];
            kernel::select_top<T>(values, length, kept, to, scratch);
            for (index_t i = 0; i < kept; ++i) to[i] += static_cast<row_t>(begin);
            offsets[s + 1] = offsets[s] + static_cast<row_t>(kept);
        }
    }
};

}  // namespace mox::inline MOX_ABI
