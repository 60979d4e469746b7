#pragma once

// Small policies of mixture of depths (arXiv 2404.02258): how many tokens pass, which always pass, what the
// block's contribution is multiplied with, and whether the score's gradient reaches what it was computed
// from. Where the score comes from is depth_score.hpp, how decoding agrees with training depth_sampling.hpp.

#include <algorithm>
#include <cmath>
#include <string_view>

#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI {

namespace route {

struct score_policy {};
struct keep_policy {};
struct always_policy {};
struct weighting_policy {};
struct sampling_policy {};
struct score_gradient_policy {};

}  // namespace route

/// Of a sequence of n tokens, max(1, floor(c n)) pass through the block; c in thousandths.
template <index_t Permille>
struct keep_permille {
    static_assert(Permille > 0 && Permille <= 1000, "mox::keep_permille: the share must be from 1 to 1000");
    using policy = route::keep_policy;
    static constexpr double share = static_cast<double>(Permille) / 1000.0;
    static constexpr index_t kept(index_t tokens, double /*progress*/ = 1) {
        return tokens == 0 ? 0 : std::max<index_t>(1, Permille * tokens / 1000);
    }
};

/// The share moves in a straight line from `From` to `To` thousandths while the progress of training, set
/// with tape.set_progress, goes from 0 to 1. Evaluation and FLOPs are those of the end.
template <index_t From, index_t To>
struct keep_annealed {
    static_assert(From > 0 && From <= 1000 && To > 0 && To <= 1000,
                  "mox::keep_annealed: both shares must be from 1 to 1000");
    using policy = route::keep_policy;
    static constexpr double share = static_cast<double>(To) / 1000.0;
    static constexpr index_t kept(index_t tokens, double progress = 1) {
        const double part = std::clamp(progress, 0.0, 1.0);
        const auto permille =
            From + static_cast<index_t>(part * static_cast<double>(To - From) + (To < From ? -0.5 : 0.5));
        return tokens == 0 ? 0 : std::max<index_t>(1, permille * tokens / 1000);
    }
};

/// The tokens at the first N positions of a sequence always pass and count towards the capacity: class tokens
/// of an image network.
template <index_t N>
struct always_first {
    static_assert(N >= 0, "mox::always_first: the number must not be negative");
    using policy = route::always_policy;
    static constexpr index_t tokens = N;
};

namespace score_gradient {

/// The score is differentiated: a learned router teaches the tokens it reads, and a weighted score of
/// received attention teaches the attention map.
struct kept {
    using policy = route::score_gradient_policy;
    static constexpr bool flows = true;
};

/// The gradient ends at the score's own parameters.
struct cut {
    using policy = route::score_gradient_policy;
    static constexpr bool flows = false;
};

}  // namespace score_gradient

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
}  // namespace mox::inline MOX_ABI
