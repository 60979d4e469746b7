#pragma once

// Auxiliary losses of a router. Each gives its value and adds its gradient to dprobability or dlogits;
// frequencies are counts before dropping and constant in the gradient.

#include <string_view>

#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI::balance {

namespace detail {

// Load balance over the rows [begin, end): value, and with `dprob` its gradient.
// counts: choices per output among these rows.
template <class T, class Count>
T load_over(const route::router_view<T>& r, index_t begin, index_t end, Count&& count, T weight,
            matrix_view<T>* dprob) {
    const index_t outputs = r.outputs();
    const T rows = static_cast<T>(end - begin);
    if (end == begin) return T(0);
    const index_t nulls = outputs - r.experts;
    T null_load = 0;
    for (index_t e = r.experts; e < outputs; ++e) null_load += static_cast<T>(count(e));
    if (nulls > 0) null_load /= static_cast<T>(nulls);
    T value = 0;
    for (index_t e = 0; e < outputs; ++e) {
        // Null experts are interchangeable, so they share their mean load.
        const T load = e < r.experts ? static_cast<T>(count(e)) : null_load;
        const T f = load / (rows * static_cast<T>(r.slots));
        const T slope = weight * static_cast<T>(outputs) * f / rows;
        T sum = 0;
        for (index_t t = begin; t < end; ++t) sum += r.probability(t, e);
        value += slope * sum;
        if (dprob) {
            for (index_t t = begin; t < end; ++t) (*dprob)(t, e) += slope;
        }
    }
    return value;
}

}  // namespace detail

/// a E sum_e f_e P_e: f_e the share of slots that chose e, P_e its mean probability; equals a when balanced
/// (Switch, arXiv 2101.03961). Slots that a selector leaves empty count: with one that may take all experts
/// (route::top_p, route::entropy_broadcast) a balanced router has a times the mean share of experts that a
/// token takes. With null experts AdaMoE's form: E + M outputs, null experts share their mean
/// load (arXiv 2406.13233).
template <coefficient A = coefficient{0.01}>
struct load {
    using policy = route::balance_policy;
    static constexpr std::string_view name = "load";
    static constexpr bool needs_probability = true;

    template <class T>
    static T value(const route::router_view<T>& r) {
        return detail::load_over<T>(
            r, 0, r.tokens(), [&](index_t e) { return r.counts[e]; }, static_cast<T>(A.value), nullptr);
    }

    template <class T>
    static void gradient(const route::router_view<T>& r, T scale, matrix_view<T> dprob, matrix_view<T>) {
        detail::load_over<T>(
            r, 0, r.tokens(), [&](index_t e) { return r.counts[e]; }, scale * static_cast<T>(A.value),
            &dprob);
    }
};

/// The same per sequence, averaged over the sequences (DeepSeekMoE, arXiv 2401.06066).
template <coefficient A = coefficient{0.001}>
struct load_per_sequence {
    using policy = route::balance_policy;
    static constexpr std::string_view name = "load_per_sequence";
    static constexpr bool needs_probability = true;

    template <class T>
    static T value(const route::router_view<T>& r) {
        return sum(r, static_cast<T>(A.value), static_cast<matrix_view<T>*>(nullptr));
    }
    template <class T>
    static void gradient(const route::router_view<T>& r, T scale, matrix_view<T> dprob, matrix_view<T>) {
        sum(r, scale * static_cast<T>(A.value), &dprob);
    }

private:
    template <class T>
    static T sum(const route::router_view<T>& r, T weight, matrix_view<T>* dprob) {
        T value = 0;
        for (index_t s = 0; s < r.sequences; ++s) {
            const index_t begin = r.sequence_offsets[s], end = r.sequence_offsets[s + 1];
            const auto count = [&](index_t e) {
                index_t n = 0;
                for (index_t i = begin * r.slots; i < end * r.slots; ++i) n += r.chosen[i] == e ? 1 : 0;
                return n;
            };
            value += detail::load_over<T>(r, begin, end, count, weight / static_cast<T>(r.sequences), dprob);
        }
        return value;
    }
};

/// b mean_t logsumexp(l_t)^2: keeps logits small (ST-MoE, arXiv 2202.08906).
template <coefficient B = coefficient{0.001}>
struct z_loss {
    using policy = route::balance_policy;
    static constexpr std::string_view name = "z_loss";
    static constexpr bool needs_probability = true;

    template <class T>
    static T value(const route::router_view<T>& r) {
        T sum = 0;
        for (index_t t = 0; t < r.tokens(); ++t) sum += r.log_sum_exp[t] * r.log_sum_exp[t];
        return r.tokens() == 0 ? T(0) : static_cast<T>(B.value) * sum / static_cast<T>(r.tokens());
    }

    template <class T>
    static void gradient(const route::router_view<T>& r, T scale, matrix_view<T>, matrix_view<T> dlogits) {
        if (r.tokens() == 0) return;
        const T slope = 2 * scale * static_cast<T>(B.value) / static_cast<T>(r.tokens());
        for (index_t t = 0; t < r.tokens(); ++t) {
            for (index_t e = 0; e < r.outputs(); ++e) {
                dlogits(t, e) += slope * r.log_sum_exp[t] * r.probability(t, e);
            }
        }
    }
};

}  // namespace mox::inline MOX_ABI::balance
