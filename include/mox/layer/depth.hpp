#pragma once

// Mixture of depths: a router decides which tokens of a sequence go through a block; the others keep their
// value. The selected tokens form a shorter ragged batch with their original positions, so any block works.

#include <mox/kernel/dot.hpp>
#include <mox/kernel/elementwise.hpp>
#include <mox/kernel/topk.hpp>
#include <mox/layer/context.hpp>
#include <mox/route/depth_policy.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

template <class P>
consteval bool check_depth_policy() {
    static_assert(
        requires { typename P::policy; },
        "mox::depth: this argument is not a depth policy; expected a score (route::learned, "
        "route::attention_received), keep_permille, a weighting or a sampling policy");
    return true;
}

// Which signal a score reads.
template <class Score>
struct score_reads {
    using type = leaves<>;
};
template <>
struct score_reads<route::attention_received> {
    using type = leaves<signal::attention_received>;
};

}  // namespace detail

/// Mixture of depths around `Block` (arXiv 2404.02258; with route::attention_received A-MoD, arXiv
/// 2412.20875). y_t = x_t + a(r_t) (Block(x_S)_t - x_t) for the selected tokens S, y_t = x_t for the others.
/// Policies in any order: one score, one keep_permille, and optionally a weighting (default sigmoid for a
/// learned score, none otherwise) and a sampling rule (default: auxiliary loss and causal threshold for a
/// learned score).
template <class Block, class... Policies>
struct depth {
    static_assert((detail::check_depth_policy<Policies>() && ... && true));
    static_assert(route::all_of_kind<route::score_policy, Policies...>::size == 1,
                  "mox::depth: exactly one score is needed: mox::route::learned or "
                  "mox::route::attention_received");
    static_assert(route::all_of_kind<route::keep_policy, Policies...>::size == 1,
                  "mox::depth: exactly one capacity is needed, such as mox::keep_permille<500>");
    static_assert(Block::in == Block::out, "mox::depth: the block must have the same width in and out");

    using score = typename route::all_of_kind<route::score_policy, Policies...>::template at<0>;
    using keep = typename route::all_of_kind<route::keep_policy, Policies...>::template at<0>;
    static constexpr bool learned = score::has_parameters;
    using weight =
        route::one_of_kind<route::weighting_policy,
                           std::conditional_t<learned, weighting::sigmoid, weighting::none>, Policies...>;
    using rule =
        route::one_of_kind<route::sampling_policy,
                           std::conditional_t<learned, sampling::auxiliary_loss<>, sampling::whole_sequence>,
                           Policies...>;
    static_assert(learned || !weight::weighted,
                  "mox::depth: a score without parameters only selects; use weighting::none");
    static_assert(
        learned || !rule::causal,
        "mox::depth: a score without parameters has no causal threshold; use sampling::whole_sequence");

    static constexpr std::string_view name = "depth";
    static constexpr index_t in = Block::in;
    static constexpr index_t out = Block::out;
    static constexpr double share = keep::share;

    using children = leaves<Block>;
    using reads = typename detail::score_reads<score>::type;

    static constexpr auto parameters = [] {
        if constexpr (learned) {
            return std::array{parameter{.name = "router", .cols = in, .init = fill::small, .decays = false}};
        } else {
            return std::array<parameter, 0>{};
        }
    }();

    /// The linear parts of the block cost c, attention among the kept tokens c * c.
    static constexpr double flops(double context) {
        return (learned ? 2.0 * in : 0.0) + share * Block::flops(share * context);
    }
    static constexpr double child_active_share(std::size_t) { return share; }

    template <class T>
    struct record {
        matrix_view<const T> x;
        matrix_view<const T> inner_x, inner_y;
        const T* scores;
        const row_t* selected;
        sequence_view inner;
        bool auxiliary;
    };

    template <class T>
    static void forward(context<T>& ctx, param_ref<depth, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        const index_t n = x.rows;
        const sequence_view outer = ctx.rows;
        record<T> r{};
        r.x = x;
        r.auxiliary = ctx.mode == phase::train && rule::causal;

        T* scores = ctx.kept->template take<T>(n);
        if constexpr (learned) {
            kernel::dot_rows<T>(ctx.exec, x, w[0], scores);
        } else {
            check::that(
                !ctx.decoding(), "mox::decode",
                "a depth layer routed by received attention needs the whole sequence and cannot decode "
                "token by token");
            const matrix_view<T> received = ctx.signals->template find<signal::attention_received>();
            for (index_t t = 0; t < n; ++t) scores[t] = received(outer.token_of(t), 0);
        }
        r.scores = scores;

        row_t* selected = ctx.kept->template take<row_t>(n);
        row_t* offsets = ctx.kept->template take<row_t>(outer.sequences + 1);
        select(ctx, outer, scores, selected, offsets);
        const index_t kept = offsets[outer.sequences];
        r.selected = selected;

        // The selected rows as a batch of their own.
        row_t* positions = ctx.kept->template take<row_t>(kept);
        row_t* token = ctx.kept->template take<row_t>(kept);
        for (index_t i = 0; i < kept; ++i) {
            positions[i] = outer.positions[selected[i]];
            token[i] = outer.token_of(selected[i]);
        }
        r.inner = {offsets, outer.sequences, positions, token};

        if (r.auxiliary) {
            T sum = 0;
            index_t next = 0;
            for (index_t t = 0; t < n; ++t) {
                const bool taken = next < kept && selected[next] == t;
                next += taken ? 1 : 0;
                sum += rule::value(scores[t], taken);
            }
            if (n > 0) ctx.aux_loss += ctx.aux_scale * sum / static_cast<T>(n);
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
            ctx.next_state += ctx.decoding() ? state_count<Block>() : 0;
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
                    const T a = weight::value(scores[selected[i]]);
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
        T* dscore = ctx.scratch->template take<T>(n);
        std::fill_n(dscore, n, T(0));

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
                    dscore[t] = weight::derivative(r.scores[t]) * dot;
                } else {
                    std::copy_n(from, in, to);
                }
            }
        });
        if (r.auxiliary) {
            const T scale = ctx.aux_scale / static_cast<T>(std::max<index_t>(n, 1));
            index_t next = 0;
            for (index_t t = 0; t < n; ++t) {
                const bool taken = next < kept && r.selected[next] == t;
                next += taken ? 1 : 0;
                dscore[t] += scale * rule::derivative(r.scores[t], taken);
            }
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
        if constexpr (learned) {
            kernel::dot_rows_backward<T>(ctx.exec, r.x, w[0], dscore, wanted ? dx : matrix_view<T>{}, g[0],
                                         ctx.accumulate);
        }
    }

private:
    template <class T>
    static void select(context<T>& ctx, const sequence_view& rows, const T* scores, row_t* selected,
                       row_t* offsets) {
        offsets[0] = 0;
        const bool threshold = rule::causal && ctx.mode == phase::evaluate;
        const arena_scope scope(*ctx.scratch);
        row_t* scratch = ctx.scratch->template take<row_t>(threshold ? 0 : rows.longest());
        for (index_t s = 0; s < rows.sequences; ++s) {
            const index_t begin = rows.begin(s), length = rows.length(s);
            row_t* to = selected + offsets[s];
            index_t kept = 0;
            if (threshold) {
                // sigmoid(r) > 1/2
                for (index_t t = 0; t < length; ++t) {
                    if (scores[begin + t] > T(0)) to[kept++] = static_cast<row_t>(begin + t);
                }
            } else {
                kept = keep::kept(length);
                kernel::select_top<T>(scores + begin, length, kept, to, scratch);
                for (index_t i = 0; i < kept; ++i) to[i] += static_cast<row_t>(begin);
            }
            offsets[s + 1] = offsets[s] + static_cast<row_t>(kept);
        }
    }
};

}  // namespace mox::inline MOX_ABI
