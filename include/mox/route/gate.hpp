#pragma once

// Gate weights: what the output of a chosen expert is multiplied with. Null experts get 0.

#include <cmath>
#include <limits>

#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI::gate {

/// Softmax over the chosen true experts only (Mixtral, arXiv 2401.04088; with null experts AdaMoE, arXiv
/// 2406.13233). The weights of a token sum to 1; a token that chose null experts only gets none. With one
/// expert left the weight is 1 and the router gets no gradient from the task.
struct renormalised {
    using policy = route::gate_policy;
    static constexpr bool needs_probability = false;

    template <class T>
    static void forward(const route::router_view<T>& r, index_t t, T* gate) {
        const T* logits = r.logits.row(t);
        const row_t* chosen = r.chosen_by(t);
        T largest = -std::numeric_limits<T>::infinity();
        for (index_t j = 0; j < r.slots; ++j) {
            if (r.is_expert(chosen[j]) && logits[chosen[j]] > largest) largest = logits[chosen[j]];
        }
        T sum = 0;
        for (index_t j = 0; j < r.slots; ++j) {
            gate[j] = r.is_expert(chosen[j]) ? std::exp(logits[chosen[j]] - largest) : T(0);
            sum += gate[j];
        }
        if (sum == T(0)) return;
        for (index_t j = 0; j < r.slots; ++j) gate[j] /= sum;
    }

    /// Adds to dlogits (outputs of this token): dl_i = g_i (dg_i - sum_j g_j dg_j) on the chosen.
    template <class T>
    static void backward(const route::router_view<T>& r, index_t t, const T* gate, const T* dgate, T* dlogits,
                         T* /*dprobability*/) {
        const row_t* chosen = r.chosen_by(t);
        T mean = 0;
        for (index_t j = 0; j < r.slots; ++j) mean += gate[j] * dgate[j];
        for (index_t j = 0; j < r.slots; ++j) {
            if (r.is_expert(chosen[j])) dlogits[chosen[j]] += gate[j] * (dgate[j] - mean);
        }
    }
};

/// Softmax over all experts, the chosen values undivided (Switch, arXiv 2101.03961; DeepSeekMoE, arXiv
/// 2401.06066). All logits get gradient.
struct softmax {
    using policy = route::gate_policy;
    static constexpr bool needs_probability = true;

    template <class T>
    static void forward(const route::router_view<T>& r, index_t t, T* gate) {
        const T* p = r.probability.row(t);
        const row_t* chosen = r.chosen_by(t);
        for (index_t j = 0; j < r.slots; ++j) gate[j] = r.is_expert(chosen[j]) ? p[chosen[j]] : T(0);
    }

    /// Adds to dprobability; the layer sends it through the softmax.
    template <class T>
    static void backward(const route::router_view<T>& r, index_t t, const T* /*gate*/, const T* dgate,
                         T* /*dlogits*/, T* dprobability) {
        const row_t* chosen = r.chosen_by(t);
        for (index_t j = 0; j < r.slots; ++j) {
            if (r.is_expert(chosen[j])) dprobability[chosen[j]] += dgate[j];
        }
    }
};

/// Every chosen expert counts in full (LLaVA-MoLE, arXiv 2401.16160): the task sends the router no gradient,
/// it learns from its balance loss alone. gate::softmax lets it learn from the task.
struct one {
    using policy = route::gate_policy;
    static constexpr bool needs_probability = false;

    template <class T>
    static void forward(const route::router_view<T>& r, index_t t, T* gate) {
        const row_t* chosen = r.chosen_by(t);
        for (index_t j = 0; j < r.slots; ++j) gate[j] = r.is_expert(chosen[j]) ? T(1) : T(0);
    }

    template <class T>
    static void backward(const route::router_view<T>&, index_t, const T*, const T*, T*, T*) {}
};

}  // namespace mox::inline MOX_ABI::gate
