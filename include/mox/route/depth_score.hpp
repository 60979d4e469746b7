#pragma once

// Where the score of a token comes from that decides whether it passes a mixture-of-depths block.
//
// A score policy says which signals it reads, which parameters it has for a width, and three facts:
//   differentiable   backward exists (weightings and losses on the score need it)
//   whole_sequence   the score of a token depends on later tokens, so that decoding cannot compute it
//   flops(width)     operations per token
// and, when it draws random numbers, `draws`.
// forward writes one score per row; backward gets the gradient of the scores and adds to dx, which is empty
// when nobody wants it. The context is the layer's (layer/context.hpp).

#include <array>
#include <cstdint>

#include <mox/core/parameter.hpp>
#include <mox/core/random.hpp>
#include <mox/kernel/dot.hpp>
#include <mox/route/depth_policy.hpp>

namespace mox::inline MOX_ABI {

namespace signal {
struct attention_received;
}

namespace route {

/// r_t = x_t . w with a learned vector w (MoD, arXiv 2404.02258).
struct learned {
    using policy = score_policy;
    using reads = leaves<>;
    static constexpr std::string_view name = "learned";
    static constexpr bool differentiable = true;
    static constexpr bool whole_sequence = false;
    static constexpr double flops(index_t width) { return 2.0 * static_cast<double>(width); }

    template <index_t Width>
    static constexpr std::array parameters{
        parameter{.name = "router", .cols = Width, .init = fill::small, .decays = false}};

    template <class T, class Context>
    static void forward(Context& ctx, tensor_list<const T> w, matrix_view<const T> x, double /*share*/,
                        T* scores) {
        kernel::dot_rows<T>(ctx.exec, x, w[0], scores);
    }

    template <class T, class Context>
    static void backward(Context& ctx, tensor_list<const T> w, tensor_list<T> g, matrix_view<const T> x,
                         const T* dscores, matrix_view<T> dx) {
        kernel::dot_rows_backward<T>(ctx.exec, x, w[0], dscores, dx, g[0], ctx.accumulate);
    }
};

namespace detail {

// Column 0 or 1 of signal::attention_received.
template <index_t Column>
struct received {
    using policy = score_policy;
    using reads = leaves<signal::attention_received>;
    static constexpr bool differentiable = true;
    static constexpr bool whole_sequence = true;
    static constexpr double flops(index_t) { return 0; }

    template <index_t Width>
    static constexpr std::array<parameter, 0> parameters{};

    template <class T, class Context>
    static void forward(Context& ctx, tensor_list<const T>, matrix_view<const T> x, double /*share*/,
                        T* scores) {
        const auto board = ctx.signals->template find<signal::attention_received>();
        for (index_t t = 0; t < x.rows; ++t) scores[t] = board(ctx.rows.token_of(t), Column);
    }

    template <class T, class Context>
    static void backward(Context& ctx, tensor_list<const T>, tensor_list<T>, matrix_view<const T> x,
                         const T* dscores, matrix_view<T> /*dx*/) {
        const auto board = ctx.signal_gradients->template find<signal::attention_received>();
        for (index_t t = 0; t < x.rows; ++t) board(ctx.rows.token_of(t), Column) += dscores[t];
    }
};

}  // namespace detail

/// The attention a token received in the attention layer before it: the mean of its column of the attention
/// map over heads and all queries of the sequence. No parameters (A-MoD, arXiv 2412.20875).
struct attention_received : detail::received<0> {
    static constexpr std::string_view name = "attention_received";
};

/// The same with the mean over those queries that may see the token, which under a causal mask does not
/// favour early tokens.
struct attention_received_per_query : detail::received<1> {
    static constexpr std::string_view name = "attention_received_per_query";
};

/// A random number per token, the control of every experiment: new in each training step, fixed in
/// evaluation. Positive with the probability of the capacity, so that sampling::threshold makes it causal.
struct random {
    using policy = score_policy;
    using reads = leaves<>;
    static constexpr std::string_view name = "random";
    static constexpr bool draws = true;
    static constexpr bool differentiable = false;
    static constexpr bool whole_sequence = false;
    static constexpr double flops(index_t) { return 0; }

    template <index_t Width>
    static constexpr std::array<parameter, 0> parameters{};

    template <class T, class Context>
    static void forward(Context& ctx, tensor_list<const T>, matrix_view<const T> /*x*/, double share,
                        T* scores) {
        // One stream per step and layer, one number per sequence and position.
        const auto layer = static_cast<std::uint64_t>(ctx.next_draw++);
        const random_stream numbers(ctx.seed, ctx.step << 20 | layer);
        for (index_t s = 0; s < ctx.rows.sequences; ++s) {
            for (index_t t = ctx.rows.begin(s); t < ctx.rows.begin(s) + ctx.rows.length(s); ++t) {
                const auto at =
                    static_cast<std::uint64_t>(s) << 32 | static_cast<std::uint64_t>(ctx.rows.positions[t]);
                scores[t] = static_cast<T>(numbers.uniform(at) - (1.0 - share));
            }
        }
    }
};

}  // namespace route
}  // namespace mox::inline MOX_ABI
