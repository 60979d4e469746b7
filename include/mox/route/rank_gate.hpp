#pragma once

// Gates in rank space: which ranks of an adapter a token uses, and with what weight. Each is a function from
// the token x and its rank activations z = x A' to weights g (tokens x ranks, 0: not used), and the way back
// of its gradient. The adapter itself (layer/lora.hpp) does the rest.
//
// A gate has
//   routed                       whether tokens choose; false: all ranks count in full
//   slots<ranks>                 ranks per token that it uses
//   parameters<in, ranks>        its own tensors
//   trains_down                  whether the adapter's A is trained
//   scales_by_alpha              whether the update is scaled by alpha instead of alpha / rank
//   reads_activations            whether the choice depends on z
//   teaches_activations          whether backward adds to dz
//   draws                        true: forward takes one number of context::next_draw (leave out otherwise)
//   constant_weights             true: all weights are one (leave out otherwise)
//   key_of<T>                    with constant weights: the choice is the largest key_of<T>{w[0]}(z, rank),
//                                a simd::ordered of one activation each. The adapter may make it before z
//                                is written, and not call forward (leave out otherwise)
//   forward(ctx, w, x, z, chosen, g) -> state    chosen, g: tokens x slots; z is empty unless it is read
//   backward(ctx, w, grads, x, z, state, chosen, g, dg, dz, dx)   adds to dz, and to dx unless it is empty

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <string_view>

#include <mox/core/buffer.hpp>
#include <mox/core/coefficient.hpp>
#include <mox/core/error.hpp>
#include <mox/core/parameter.hpp>
#include <mox/core/random.hpp>
#include <mox/kernel/activation.hpp>
#include <mox/kernel/dense.hpp>
#include <mox/kernel/top_set.hpp>
#include <mox/kernel/topk.hpp>
#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI {

namespace route {
struct rank_gate_policy {};
}  // namespace route

namespace rank_gate {

/// All ranks count in full: plain LoRA (arXiv 2106.09685).
struct all {
    using policy = route::rank_gate_policy;
    static constexpr std::string_view name = "lora";
    static constexpr bool routed = false;
    static constexpr bool trains_down = true;
    static constexpr bool scales_by_alpha = false;
    static constexpr bool reads_activations = false;
    static constexpr bool teaches_activations = false;
    template <index_t Ranks>
    static constexpr index_t slots = Ranks;
    template <index_t In, index_t Ranks>
    static constexpr std::array<parameter, 0> parameters{};
    static constexpr double flops(index_t /*in*/, index_t /*ranks*/) { return 0; }
};

namespace detail {

/// bias_i += rate * sign(mean count - count_i): ranks that many tokens chose become less likely.
template <class T>
void update_selection_bias(T* bias, const row_t* counts, index_t size, double rate) {
    double mean = 0;
    for (index_t i = 0; i < size; ++i) mean += static_cast<double>(counts[i]);
    mean /= static_cast<double>(size);
    for (index_t i = 0; i < size; ++i) {
        const double c = static_cast<double>(counts[i]);
        bias[i] += static_cast<T>(c < mean ? rate : c > mean ? -rate : 0.0);
    }
}

}  // namespace detail

/// How scores become weights.
enum class score_form {
    sigmoid_sum,          ///< v = sigmoid(x R) + bias, g = v / sum v of the chosen
    softmax_on_selected,  ///< v = x R + bias, g = softmax of v over the chosen
};

/// Each rank is an expert (SMoRA, arXiv 2501.15103): v = sigmoid(x R) + bias, the K largest, g = v / sum v of
/// the chosen. `Share` neighbouring ranks have one score. The bias is no parameter: it moves by `Rate` after
/// each step against the ranks that were chosen too often (mox::update_selection_bias). It is part of the
/// weight, not only of the choice. `Form` softmax_on_selected is the earlier form of the authors' code, which
/// also explores: with probability `Explore` (theirs: 0.1) all tokens of a training forward draw K ranks
/// each, any with the same probability and with replacement. A rank drawn twice counts once, so such a token
/// has fewer than K ranks; their weights are computed as always and sum to one. Throws mox::error in forward
/// when the chosen v of a token sum to zero or less.
template <index_t K, index_t Share = 1, coefficient Rate = coefficient{1e-5},
          score_form Form = score_form::sigmoid_sum, coefficient Explore = coefficient{0.0}>
struct sigmoid_top_k {
    static_assert(K > 0 && Share > 0, "mox::rank_gate::sigmoid_top_k: k and the share must be positive");
    static_assert(Explore.value >= 0 && Explore.value <= 1,
                  "mox::rank_gate::sigmoid_top_k: the probability of exploring must lie in [0, 1]");
    static constexpr bool draws = Explore.value > 0;
    static constexpr bool sigmoid = Form == score_form::sigmoid_sum;
    using policy = route::rank_gate_policy;
    static constexpr std::string_view name = "smora";
    static constexpr bool routed = true;
    static constexpr bool trains_down = true;
    static constexpr bool scales_by_alpha = true;
    static constexpr bool reads_activations = false;
    static constexpr bool teaches_activations = false;
    static constexpr index_t bias_tensor = 1;
    static constexpr double bias_rate = Rate.value;

    template <index_t Ranks>
    static constexpr index_t slots = K;

    template <index_t In, index_t Ranks>
    static constexpr auto parameters = [] {
        static_assert(Ranks % Share == 0,
                      "mox::rank_gate::sigmoid_top_k: the ranks that share a score must divide the rank");
        return std::array{parameter{.name = "router",
                                    .form = storage::panels,
                                    .rows = In,
                                    .cols = Ranks / Share,
                                    .init = fill::uniform_rows,
                                    .decays = false},
                          parameter{.name = "select_bias",
                                    .cols = Ranks,
                                    .init = fill::zeros,
                                    .decays = false,
                                    .trained = false}};
    }();
    static constexpr double flops(index_t in, index_t ranks) {
        return 2.0 * static_cast<double>(in) * static_cast<double>(ranks) / Share;
    }

    template <index_t Ranks, class T, class Context>
    static matrix_view<T> forward(Context& ctx, tensor_list<const T> w, matrix_view<const T> x,
                                  matrix_view<const T>, row_t* chosen, T* g) {
        const matrix_view<T> score = ctx.activation(x.rows, Ranks / Share);
        kernel::dense<T>(ctx.exec, panels<Ranks, const T>(w[0], x.cols), x, score);
        const arena_scope scope(*ctx.scratch);
        const matrix_view<T> v = ctx.temporary(x.rows, Ranks);
        std::atomic<bool> positive{true};
        parallel_ranges(ctx.exec, x.rows, 64, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                T* s = score.row(t);
                if constexpr (sigmoid) {
                    simd::for_each<T>(score.cols, [&](index_t i, index_t n) {
                        using batch = simd::batch<T>;
                        const batch one(T(1));
                        simd::store_upto(s + i, one / (one + simd::exp(-simd::load_upto<T>(s + i, n))), n);
                    });
                }
                for (index_t j = 0; j < Ranks; ++j) v(t, j) = s[j / Share] + w[1][j];
            }
        });
        if (!explores<Ranks>(ctx, x.rows, chosen)) kernel::top_k_rows<T>(ctx.exec, v, K, chosen);
        parallel_ranges(ctx.exec, x.rows, 64, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                const row_t* pick = chosen + t * K;
                T* weight = g + t * K;
                // The first choice has the largest v, unless it was drawn.
                T largest = v(t, pick[0]);
                for (index_t j = 1; draws && j < K; ++j) {
                    if (pick[j] >= 0) largest = std::max(largest, v(t, pick[j]));
                }
                T sum = 0;
                for (index_t j = 0; j < K; ++j) {
                    if (draws && pick[j] < 0) {
                        weight[j] = 0;
                        continue;
                    }
                    weight[j] = sigmoid ? v(t, pick[j]) : std::exp(v(t, pick[j]) - largest);
                    sum += weight[j];
                }
                if (sum <= T(0)) positive = false;
                for (index_t j = 0; j < K; ++j) weight[j] /= sum;
            }
        });
        check::that(
            positive, "mox::rank_gate::sigmoid_top_k",
            "the chosen scores of a token sum to zero or less: the selection bias has become so negative "
            "(use a smaller rate), or the router's logits have");
        return score;
    }

    template <index_t Ranks, class T, class Context>
    static void backward(Context& ctx, tensor_list<const T> w, tensor_list<T> grads, matrix_view<const T> x,
                         matrix_view<const T>, matrix_view<const T> score, const row_t* chosen, const T* g,
                         const T* dg, matrix_view<T>, matrix_view<T> dx) {
        const arena_scope scope(*ctx.scratch);
        const matrix_view<T> dl = ctx.temporary(x.rows, score.cols);
        parallel_ranges(ctx.exec, x.rows, 64, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                std::fill_n(dl.row(t), dl.cols, T(0));
                const row_t* pick = chosen + t * K;
                T mean = 0, sum = 0;
                for (index_t j = 0; j < K; ++j) {
                    if (draws && pick[j] < 0) continue;
                    mean += g[t * K + j] * dg[t * K + j];
                    sum += score(t, pick[j] / Share) + w[1][pick[j]];
                }
                for (index_t j = 0; j < K; ++j) {
                    if (draws && pick[j] < 0) continue;
                    const T s = score(t, pick[j] / Share);
                    dl(t, pick[j] / Share) +=
                        (dg[t * K + j] - mean) * (sigmoid ? s * (T(1) - s) / sum : g[t * K + j]);
                }
            }
        });
        if (grads[0]) {
            kernel::dense_weight_gradient<T>(ctx.exec, x, dl, panels<Ranks, T>(grads[0], x.cols),
                                             ctx.accumulate);
        }
        if (dx.data)
            kernel::dense_transposed<T>(ctx.exec, panels<Ranks, const T>(w[0], x.cols), dl, dx, true);
    }

private:
    // Whether this forward draws its ranks, and if so which; -1 in the place of one that the token has.
    template <index_t Ranks, class Context>
    static bool explores(Context& ctx, index_t tokens, row_t* chosen) {
        if constexpr (draws) {
            // Takes its number in evaluation too, so that the layers behind draw the same.
            const random_stream numbers(ctx.seed,
                                        ctx.step << 20 | static_cast<std::uint64_t>(ctx.next_draw++));
            if (!ctx.training() || !(numbers.uniform(0) < Explore.value)) return false;
            parallel_ranges(ctx.exec, tokens, 64, [&](index_t begin, index_t end) {
                for (index_t t = begin; t < end; ++t) {
                    row_t* pick = chosen + t * K;
                    for (index_t j = 0; j < K; ++j) {
                        // The first block of four numbers has decided.
                        const std::uint64_t bits = numbers.bits(static_cast<std::uint64_t>(4 + t * K + j));
                        const auto rank = static_cast<row_t>(bits * static_cast<std::uint64_t>(Ranks) >> 32);
                        pick[j] = std::find(pick, pick + j, rank) == pick + j ? rank : -1;
                    }
                }
            });
            return true;
        }
        return false;
    }

    template <index_t Ranks, class T>
    static kernel::panel_view<T> panels(T* p, index_t in) {
        return {p, in, kernel::panel_layout<std::remove_const_t<T>>::padded(Ranks / Share)};
    }
};

/// By which key the ranks of a frozen projection are chosen.
enum class key { magnitude, value };

/// The K ranks that answer most to the token (FlyLoRA, arXiv 2510.08396): S = top K of |z + bias|, or of
/// z + bias, g = 1 on S, ascending. A is a sparse random projection and is never trained; there is no router.
/// The bias takes part in the choice only. `Density`: share of the values of A that are not zero; 0 is K /
/// ranks.
template <index_t K, key Key = key::magnitude, coefficient Rate = coefficient{1e-3},
          coefficient Density = coefficient{0.0}>
struct strongest {
    static_assert(K > 0, "mox::rank_gate::strongest: k must be positive");
    static_assert(Density.value >= 0 && Density.value <= 1,
                  "mox::rank_gate::strongest: the density must lie in [0, 1]");
    using policy = route::rank_gate_policy;
    static constexpr std::string_view name = "flylora";
    static constexpr bool routed = true;
    static constexpr bool trains_down = false;
    static constexpr bool scales_by_alpha = false;
    static constexpr bool reads_activations = true;
    static constexpr bool teaches_activations = false;
    static constexpr bool constant_weights = true;
    /// Values per row of A that are not zero: as many as K of the ranks stand for.
    static constexpr index_t row_values(index_t in, index_t ranks) {
        const index_t values = Density.value > 0
                                   ? static_cast<index_t>(Density.value * static_cast<double>(in))
                                   : in * K / ranks;
        return values < 1 ? 1 : values;
    }
    static constexpr index_t bias_tensor = 0;
    static constexpr double bias_rate = Rate.value;

    template <index_t Ranks>
    static constexpr index_t slots = K;

    /// What a rank is chosen by; lanes are tokens.
    template <class T>
    struct key_of {
        const T* bias;

        MOX_INLINE simd::ordered<T> operator()(const simd::batch<T>& z, index_t rank) const noexcept {
            const simd::batch<T> v = z + simd::batch<T>(bias[rank]);
            if constexpr (Key == key::magnitude) return simd::ordered<T>::magnitude(v);
            return simd::ordered<T>(v);
        }
    };

    template <index_t In, index_t Ranks>
    static constexpr auto parameters = [] {
        return std::array{parameter{
            .name = "select_bias", .cols = Ranks, .init = fill::zeros, .decays = false, .trained = false}};
    }();
    static constexpr double flops(index_t /*in*/, index_t /*ranks*/) { return 0; }

    template <index_t Ranks, class T, class Context>
    static matrix_view<T> forward(Context& ctx, tensor_list<const T> w, matrix_view<const T>,
                                  matrix_view<const T> z, row_t* chosen, T* g) {
        kernel::top_set_rows<K, Ranks, T>(ctx.exec, z, key_of<T>{w[0]}, chosen);
        std::fill_n(g, z.rows * K, T(1));
        return {};
    }

    /// The choice is constant: nothing comes back.
    template <index_t Ranks, class T, class Context>
    static void backward(Context&, tensor_list<const T>, tensor_list<T>, matrix_view<const T>,
                         matrix_view<const T>, matrix_view<const T>, const row_t*, const T*, const T*,
                         matrix_view<T>, matrix_view<T>) {}
};

/// When ranks whose activation is small lose their weight.
enum class pruning {
    in_evaluation,  ///< as the authors do
    always,         ///< in training too
};

/// Every rank is a key and a value, and its own activation is its score (MoRA, later MoRAM, arXiv
/// 2506.21035): h = z / |z|, S = the K largest h, g = softmax over S of h / Temperature. Outside training, or
/// always, weights of ranks with h below `Threshold` become 0, and where few of many ranks are picked those
/// cost nothing further; none do when it is 0. The gradient of h reaches all ranks through the norm, which is
/// at least `Smallest` (the authors' language model has 1e-8).
template <index_t K, coefficient Temperature = coefficient{0.01}, coefficient Threshold = coefficient{0.2},
          coefficient Smallest = coefficient{1e-12}, pruning Prunes = pruning::in_evaluation>
struct self_activated {
    static_assert(K > 0, "mox::rank_gate::self_activated: k must be positive");
    static_assert(Smallest.value > 0, "mox::rank_gate::self_activated: the smallest norm must be positive");
    static_assert(Temperature.value > 0, "mox::rank_gate::self_activated: the temperature must be positive");
    using policy = route::rank_gate_policy;
    static constexpr std::string_view name = "moram";
    static constexpr bool routed = true;
    static constexpr bool trains_down = true;
    static constexpr bool scales_by_alpha = false;
    static constexpr bool reads_activations = true;
    static constexpr bool teaches_activations = true;

    /// At least two ranks carry weight.
    template <index_t Ranks>
    static constexpr index_t slots = K < 2 ? (Ranks < 2 ? Ranks : 2) : (K < Ranks ? K : Ranks);
    template <index_t In, index_t Ranks>
    static constexpr std::array<parameter, 0> parameters{};
    static constexpr double flops(index_t /*in*/, index_t ranks) { return 4.0 * static_cast<double>(ranks); }

    template <index_t Ranks, class T, class Context>
    static matrix_view<T> forward(Context& ctx, tensor_list<const T>, matrix_view<const T>,
                                  matrix_view<const T> z, row_t* chosen, T* g) {
        constexpr index_t k = slots<Ranks>;
        const matrix_view<T> h = ctx.activation(z.rows, Ranks);
        const bool prune = Threshold.value > 0 && (prunes_in_training || !ctx.training());
        parallel_ranges(ctx.exec, z.rows, 64, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                const T length = std::max(norm(z, t), smallest<T>);
                for (index_t j = 0; j < Ranks; ++j) h(t, j) = z(t, j) / length;
            }
        });
        kernel::top_k_rows<T>(ctx.exec, h, k, chosen);
        parallel_ranges(ctx.exec, z.rows, 64, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                const row_t* pick = chosen + t * k;
                T* weight = g + t * k;
                softmax_of_chosen(h.row(t), pick, k, weight);
                for (index_t j = 0; prune && j < k; ++j) {
                    if (falls_short(h(t, pick[j]))) weight[j] = 0;
                }
            }
        });
        return h;
    }

    template <index_t Ranks, class T, class Context>
    static void backward(Context& ctx, tensor_list<const T>, tensor_list<T>, matrix_view<const T>,
                         matrix_view<const T> z, matrix_view<const T> h, const row_t* chosen, const T* g,
                         const T* dg, matrix_view<T> dz, matrix_view<T>) {
        constexpr index_t k = slots<Ranks>;
        parallel_ranges(ctx.exec, z.rows, 64, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                const row_t* pick = chosen + t * k;
                T mean = 0, along = 0;
                for (index_t j = 0; j < k; ++j) mean += g[t * k + j] * dg[t * k + j];
                // What was cut has no gradient of its weight, but had its part in the sum of the softmax.
                const T* weight = g + t * k;
                std::array<T, prunes_in_training ? k : 0> whole;
                if constexpr (prunes_in_training) {
                    softmax_of_chosen(h.row(t), pick, k, whole.data());
                    weight = whole.data();
                }
                const auto dh = [&](index_t j) {
                    const bool cut = prunes_in_training && falls_short(h(t, pick[j]));
                    return weight[j] * ((cut ? T(0) : dg[t * k + j]) - mean) / temperature<T>;
                };
                for (index_t j = 0; j < k; ++j) along += h(t, pick[j]) * dh(j);
                const T length = norm(z, t);
                if (!(length > smallest<T>)) {
                    // The norm is clamped: h is a plain multiple of z there.
                    for (index_t j = 0; j < k; ++j) dz(t, pick[j]) += dh(j) / smallest<T>;
                    continue;
                }
                for (index_t i = 0; i < Ranks; ++i) dz(t, i) -= h(t, i) * along / length;
                for (index_t j = 0; j < k; ++j) dz(t, pick[j]) += dh(j) / length;
            }
        });
    }

private:
    static constexpr bool prunes_in_training = Prunes == pruning::always && Threshold.value > 0;

    template <class T>
    static bool falls_short(T h) {
        return !(h >= static_cast<T>(Threshold.value));
    }
    // The first choice has the largest h.
    template <class T>
    static void softmax_of_chosen(const T* h, const row_t* pick, index_t k, T* weight) {
        T sum = 0;
        for (index_t j = 0; j < k; ++j) {
            weight[j] = std::exp((h[pick[j]] - h[pick[0]]) / temperature<T>);
            sum += weight[j];
        }
        for (index_t j = 0; j < k; ++j) weight[j] /= sum;
    }

    template <class T>
    static constexpr T temperature = static_cast<T>(Temperature.value);
    template <class T>
    static constexpr T smallest = static_cast<T>(Smallest.value);

    template <class T>
    static T norm(matrix_view<const T> z, index_t t) {
        T sum = 0;
        for (index_t j = 0; j < z.cols; ++j) sum += z(t, j) * z(t, j);
        return std::sqrt(sum);
    }
};

/// A gate and a loss that asks for even use of the ranks: A R sum_i P_i^2, where P_i is the mean weight of
/// rank i over the tokens. It is at least A where weights sum to one, and a collapse on one rank costs A R.
/// The gradient goes through the weights. MoRAM's code has it, not used (around self_activated).
template <class Gate, coefficient A = coefficient{0.01}>
struct balanced : Gate {
    static_assert(route::is_any_kind<Gate, route::rank_gate_policy>,
                  "mox::rank_gate::balanced: the first argument must be a rank gate, such as "
                  "mox::rank_gate::self_activated<8>");
    static_assert(
        Gate::routed && !requires { Gate::constant_weights; },
        "mox::rank_gate::balanced: the gate must have weights that a loss can teach, such as "
        "mox::rank_gate::self_activated<8> or mox::rank_gate::sigmoid_top_k<8>");

    template <index_t Ranks, class T, class Context>
    static matrix_view<T> forward(Context& ctx, tensor_list<const T> w, matrix_view<const T> x,
                                  matrix_view<const T> z, row_t* chosen, T* g) {
        const matrix_view<T> state = Gate::template forward<Ranks, T>(ctx, w, x, z, chosen, g);
        if (!ctx.training() || x.rows == 0) return state;
        const arena_scope scope(*ctx.scratch);
        const T* p = means<Ranks>(ctx, x.rows, chosen, g);
        T sum = 0;
        for (index_t i = 0; i < Ranks; ++i) sum += p[i] * p[i];
        ctx.aux_loss += ctx.aux_scale * static_cast<T>(A.value * static_cast<double>(Ranks)) * sum;
        return state;
    }

    template <index_t Ranks, class T, class Context>
    static void backward(Context& ctx, tensor_list<const T> w, tensor_list<T> grads, matrix_view<const T> x,
                         matrix_view<const T> z, matrix_view<const T> state, const row_t* chosen, const T* g,
                         const T* dg, matrix_view<T> dz, matrix_view<T> dx) {
        constexpr index_t k = Gate::template slots<Ranks>;
        const arena_scope scope(*ctx.scratch);
        const T* p = means<Ranks>(ctx, x.rows, chosen, g);
        T* sum = ctx.scratch->template take<T>(x.rows * k);
        const T slope = ctx.aux_scale * static_cast<T>(2 * A.value * static_cast<double>(Ranks)) /
                        static_cast<T>(std::max<index_t>(x.rows, 1));
        for (index_t i = 0; i < x.rows * k; ++i)
            sum[i] = dg[i] + (chosen[i] < 0 ? T(0) : slope * p[chosen[i]]);
        Gate::template backward<Ranks, T>(ctx, w, grads, x, z, state, chosen, g, sum, dz, dx);
    }

private:
    // P, tokens in their order.
    template <index_t Ranks, class T, class Context>
    static const T* means(Context& ctx, index_t tokens, const row_t* chosen, const T* g) {
        T* p = ctx.scratch->template take<T>(Ranks);
        std::fill_n(p, Ranks, T(0));
        for (index_t i = 0; i < tokens * Gate::template slots<Ranks>; ++i) {
            if (chosen[i] >= 0) p[chosen[i]] += g[i];
        }
        for (index_t i = 0; i < Ranks; ++i) p[i] /= static_cast<T>(std::max<index_t>(tokens, 1));
        return p;
    }
};

}  // namespace rank_gate
}  // namespace mox::inline MOX_ABI
