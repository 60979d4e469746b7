#pragma once

// How decoding, which cannot see the future, agrees with a selection made over the whole sequence: a logit
// per token that predicts its own selection. A token passes when its logit is positive, sigmoid > 1/2.
//
// A sampling policy has the facts
//   causal        outside training the logits decide instead of the capacity
//   trained       the logits have a loss: binary cross-entropy against the selection, mean over tokens
//   reads_score   the logits are computed from the score
// and forward, which leaves the logits in a record, and backward from their gradient.

#include <array>

#include <mox/core/parameter.hpp>
#include <mox/kernel/activation.hpp>
#include <mox/kernel/dense.hpp>
#include <mox/route/depth_policy.hpp>

namespace mox::inline MOX_ABI {

namespace sampling {

namespace detail {

/// -log sigmoid(r) or -log(1 - sigmoid(r)), safe for large |r|.
template <class T>
T binary_cross_entropy(T logit, bool selected) {
    return std::log1p(std::exp(-std::abs(logit))) + std::max(logit, T(0)) - (selected ? logit : T(0));
}
template <class T>
T binary_cross_entropy_derivative(T logit, bool selected) {
    return weighting::sigmoid::value(logit) - (selected ? T(1) : T(0));
}

// The score is the logit.
struct from_score {
    using policy = route::sampling_policy;
    static constexpr bool reads_score = true;
    static constexpr double flops(index_t) { return 0; }
    template <index_t Width>
    static constexpr std::array<parameter, 0> parameters{};

    template <class T>
    struct record {
        const T* logits = nullptr;
    };
    template <class T, class Context>
    static record<T> forward(Context&, tensor_list<const T>, matrix_view<const T>, const T* scores) {
        return {scores};
    }
    template <class T, class Context>
    static void backward(Context&, tensor_list<const T>, tensor_list<T>, matrix_view<const T> x,
                         const record<T>&, const T* dlogits, T* dscores) {
        for (index_t t = 0; t < x.rows; ++t) dscores[t] += dlogits[t];
    }
};

}  // namespace detail

/// The score learns to predict its own selection. The gradient reaches the router and, through the score, the
/// tokens (arXiv 2404.02258, first remedy).
template <coefficient C = coefficient{0.01}>
struct auxiliary_loss : detail::from_score {
    static constexpr bool causal = true;
    static constexpr bool trained = true;
    static constexpr double scale = C.value;
};

/// The sign of the score decides outside training, nothing is learned: for scores that are meant so
/// (route::random).
struct threshold : detail::from_score {
    static constexpr bool causal = true;
    static constexpr bool trained = false;
    static constexpr double scale = 0;
};

/// The rule of training everywhere: needs the whole sequence, so token-by-token decoding is refused. Right
/// for networks that never decode.
struct whole_sequence : detail::from_score {
    static constexpr bool causal = false;
    static constexpr bool trained = false;
    static constexpr double scale = 0;
};

/// A small network predicts the selection from the token: logit = w2 . silu(x W1 + b1) + b2, learned beside
/// the model. Its gradient touches neither the router nor the tokens (arXiv 2404.02258, second remedy), and
/// it lets scores that need the whole sequence decode.
template <index_t Hidden = 32, coefficient C = coefficient{1.0}>
struct predictor {
    static_assert(Hidden > 0, "mox::sampling::predictor: the number of hidden units must be positive");
    using policy = route::sampling_policy;
    static constexpr bool causal = true;
    static constexpr bool trained = true;
    static constexpr bool reads_score = false;
    static constexpr double scale = C.value;
    static constexpr double flops(index_t width) {
        return 2.0 * static_cast<double>(Hidden) * static_cast<double>(width + 1);
    }

    template <index_t Width>
    static constexpr std::array parameters{
        parameter{.name = "predictor.hidden", .form = storage::panels, .rows = Width, .cols = Hidden},
        parameter{.name = "predictor.hidden_bias", .cols = Hidden, .init = fill::zeros, .decays = false},
        parameter{.name = "predictor.out", .cols = Hidden, .init = fill::small},
        parameter{.name = "predictor.out_bias", .cols = 1, .init = fill::zeros, .decays = false}};

    template <class T>
    struct record {
        const T* logits = nullptr;
        matrix_view<T> hidden;  // before the bias
    };

    template <class T, class Context>
    static record<T> forward(Context& ctx, tensor_list<const T> w, matrix_view<const T> x,
                             const T* /*scores*/) {
        T* logits = ctx.kept->template take<T>(x.rows);
        record<T> r{logits, ctx.activation(x.rows, Hidden)};
        kernel::dense<T>(ctx.exec, panels<const T>(w[0], x.cols), x, r.hidden);
        for (index_t t = 0; t < x.rows; ++t) {
            T sum = w[3][0];
            for (index_t j = 0; j < Hidden; ++j)
                sum += w[2][j] * activation::silu::value(r.hidden(t, j) + w[1][j]);
            logits[t] = sum;
        }
        return r;
    }

    template <class T, class Context>
    static void backward(Context& ctx, tensor_list<const T> w, tensor_list<T> g, matrix_view<const T> x,
                         const record<T>& r, const T* dlogits, T* /*dscores*/) {
        if (g[0] == nullptr) return;
        const auto dhidden = ctx.temporary(x.rows, Hidden);
        if (!ctx.accumulate) {
            std::fill_n(g[1], Hidden, T(0));
            std::fill_n(g[2], Hidden, T(0));
            g[3][0] = T(0);
        }
        for (index_t t = 0; t < x.rows; ++t) {
            g[3][0] += dlogits[t];
            for (index_t j = 0; j < Hidden; ++j) {
                const T a = r.hidden(t, j) + w[1][j];
                g[2][j] += dlogits[t] * activation::silu::value(a);
                dhidden(t, j) = dlogits[t] * w[2][j] * activation::silu::derivative(a);
                g[1][j] += dhidden(t, j);
            }
        }
        kernel::dense_weight_gradient<T>(ctx.exec, x, dhidden, panels<T>(g[0], x.cols), ctx.accumulate);
    }

private:
    template <class T>
    static kernel::panel_view<T> panels(T* base, index_t width) {
        return {base, width, kernel::panel_layout<std::remove_const_t<T>>::padded(Hidden)};
    }
};

}  // namespace sampling
}  // namespace mox::inline MOX_ABI
