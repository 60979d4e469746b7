#pragma once

// Policies of mixture of depths (arXiv 2404.02258): where a token's score comes from, how many tokens pass,
// what the block's contribution is multiplied with, and how decoding, which cannot see the future, agrees
// with training.

#include <algorithm>
#include <cmath>
#include <string_view>

#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI {

namespace route {

struct score_policy {};
struct keep_policy {};
struct weighting_policy {};
struct sampling_policy {};

/// Score r_t = x_t . w with a learned vector w (MoD, arXiv 2404.02258).
struct learned {
    using policy = score_policy;
    static constexpr std::string_view name = "learned";
    static constexpr bool has_parameters = true;
};

/// Score = the attention a token received in the attention layer before; no parameters, no gradient
/// (A-MoD, arXiv 2412.20875).
struct attention_received {
    using policy = score_policy;
    static constexpr std::string_view name = "attention_received";
    static constexpr bool has_parameters = false;
};

}  // namespace route

/// Of a sequence of n tokens, max(1, floor(c n)) pass through the block; c in thousandths.
template <index_t Permille>
struct keep_permille {
    static_assert(Permille > 0 && Permille <= 1000, "mox::keep_permille: the share must be from 1 to 1000");
    using policy = route::keep_policy;
    static constexpr double share = static_cast<double>(Permille) / 1000.0;
    static constexpr index_t kept(index_t tokens) {
        return tokens == 0 ? 0 : std::max<index_t>(1, Permille * tokens / 1000);
    }
};

namespace weighting {

/// y_t = block(x)_t: the score only selects.
struct none {
    using policy = route::weighting_policy;
    static constexpr bool weighted = false;
};

/// y_t = x_t + sigmoid(r_t) F(x)_t: stable, the default.
struct sigmoid {
    using policy = route::weighting_policy;
    static constexpr bool weighted = true;
    template <class T>
    static T value(T r) {
        return T(1) / (T(1) + std::exp(-r));
    }
    template <class T>
    static T derivative(T r) {
        const T s = value(r);
        return s * (T(1) - s);
    }
};

/// y_t = x_t + r_t F(x)_t: the paper's formula.
struct identity {
    using policy = route::weighting_policy;
    static constexpr bool weighted = true;
    template <class T>
    static T value(T r) {
        return r;
    }
    template <class T>
    static T derivative(T) {
        return T(1);
    }
};

/// y_t = x_t + tanh(r_t) F(x)_t.
struct tanh {
    using policy = route::weighting_policy;
    static constexpr bool weighted = true;
    template <class T>
    static T value(T r) {
        return std::tanh(r);
    }
    template <class T>
    static T derivative(T r) {
        const T s = std::tanh(r);
        return T(1) - s * s;
    }
};

}  // namespace weighting

namespace sampling {

/// Binary cross-entropy between sigmoid(r_t) and "token t was selected", mean over tokens; outside training a
/// token passes when sigmoid(r_t) > 1/2, which needs no other token. Its gradient reaches the router and,
/// through the score, the tokens.
template <coefficient C = coefficient{0.01}>
struct auxiliary_loss {
    using policy = route::sampling_policy;
    static constexpr bool causal = true;

    template <class T>
    static T value(T r, bool selected) {
        // log(1 + exp(-|r|)) + max(r, 0) - r * selected, safe for large |r|.
        const T loss = std::log1p(std::exp(-std::abs(r))) + std::max(r, T(0)) - (selected ? r : T(0));
        return static_cast<T>(C.value) * loss;
    }
    template <class T>
    static T derivative(T r, bool selected) {
        return static_cast<T>(C.value) * (weighting::sigmoid::value(r) - (selected ? T(1) : T(0)));
    }
};

/// The rule of training everywhere: needs the whole sequence, so token-by-token decoding is refused.
struct whole_sequence {
    using policy = route::sampling_policy;
    static constexpr bool causal = false;
    template <class T>
    static T value(T, bool) {
        return T(0);
    }
    template <class T>
    static T derivative(T, bool) {
        return T(0);
    }
};

}  // namespace sampling
}  // namespace mox::inline MOX_ABI
