#pragma once

// Auxiliary losses of soft mixtures of adapters.

#include <cmath>

#include <mox/core/error.hpp>
#include <mox/route/entropy_broadcast.hpp>
#include <mox/route/gate.hpp>

namespace mox::inline MOX_ABI::balance {

namespace detail {

template <class T>
T mean_probability(const route::router_view<T>& r, index_t e) {
    T sum = 0;
    for (index_t t = 0; t < r.tokens(); ++t) sum += r.probability(t, e);
    return r.tokens() == 0 ? T(0) : sum / static_cast<T>(r.tokens());
}

template <class T>
void add_to_column(matrix_view<T> m, index_t e, T value) {
    for (index_t t = 0; t < m.rows; ++t) m(t, e) += value;
}

}  // namespace detail

/// a sum_e C_e Q_e: C_e the number of tokens that chose e, Q_e the sum of its probabilities (LLaVA-MoLE,
/// arXiv 2401.16160). Grows with the square of the tokens; balance::load is the same loss with means. Layers
/// add up: for the paper's mean over layers divide the coefficient by their number.
template <coefficient A = coefficient{0.01}>
struct counts {
    using policy = route::balance_policy;
    static constexpr std::string_view name = "counts";

    template <class T>
    static T value(const route::router_view<T>& r) {
        T sum = 0;
        for (index_t e = 0; e < r.outputs(); ++e) {
            sum += static_cast<T>(r.counts[e]) * detail::mean_probability(r, e) * static_cast<T>(r.tokens());
        }
        return static_cast<T>(A.value) * sum;
    }
    template <class T>
    static void gradient(const route::router_view<T>& r, T scale, matrix_view<T> dprob, matrix_view<T>) {
        for (index_t e = 0; e < r.outputs(); ++e) {
            detail::add_to_column(dprob, e, scale * static_cast<T>(A.value) * static_cast<T>(r.counts[e]));
        }
    }
};

/// a E sum_e G_e P_e with the mean gate weight G_e, which has a gradient too (DynMoLE, arXiv 2504.00661); for
/// gates that are the probabilities of the chosen experts (gate::softmax).
template <coefficient A = coefficient{0.001}>
struct soft_load {
    using policy = route::balance_policy;
    using counts_on = gate::softmax;
    static constexpr std::string_view name = "soft_load";

    template <class T>
    static T value(const route::router_view<T>& r) {
        T sum = 0;
        for (index_t e = 0; e < r.outputs(); ++e) sum += mean_gate(r, e) * detail::mean_probability(r, e);
        return static_cast<T>(A.value) * static_cast<T>(r.outputs()) * sum;
    }
    template <class T>
    static void gradient(const route::router_view<T>& r, T scale, matrix_view<T> dprob, matrix_view<T>) {
        if (r.tokens() == 0) return;
        const T slope =
            scale * static_cast<T>(A.value) * static_cast<T>(r.outputs()) / static_cast<T>(r.tokens());
        for (index_t e = 0; e < r.outputs(); ++e) {
            detail::add_to_column(dprob, e, slope * mean_gate(r, e));
            const T p = detail::mean_probability(r, e);
            for (index_t t = 0; t < r.tokens(); ++t) {
                for (index_t j = 0; j < r.slots; ++j) {
                    if (r.chosen_by(t)[j] == e) dprob(t, e) += slope * p;
                }
            }
        }
    }

private:
    template <class T>
    static T mean_gate(const route::router_view<T>& r, index_t e) {
        T sum = 0;
        for (index_t i = 0; i < r.tokens() * r.slots; ++i) sum += r.chosen[i] == e ? r.gate[i] : T(0);
        return r.tokens() == 0 ? T(0) : sum / static_cast<T>(r.tokens());
    }
};

/// a mean_t S(p_t): a positive factor asks for decided tokens (DynMoLE, arXiv 2504.00661). Layers add up: for
/// the paper's one mean over the tokens of all layers divide the coefficient by the number of layers.
template <class Entropy = entropy::tsallis<>, coefficient A = coefficient{0.01}>
struct mean_entropy {
    using policy = route::balance_policy;
    static constexpr std::string_view name = "mean_entropy";

    template <class T>
    static T value(const route::router_view<T>& r) {
        T sum = 0;
        for (index_t t = 0; t < r.tokens(); ++t) sum += Entropy::value(r.probability.row(t), r.outputs());
        return r.tokens() == 0 ? T(0) : static_cast<T>(A.value) * sum / static_cast<T>(r.tokens());
    }
    template <class T>
    static void gradient(const route::router_view<T>& r, T scale, matrix_view<T> dprob, matrix_view<T>) {
        if (r.tokens() == 0) return;
        const T slope = scale * static_cast<T>(A.value) / static_cast<T>(r.tokens());
        for (index_t t = 0; t < r.tokens(); ++t) {
            Entropy::add_gradient(r.probability.row(t), r.outputs(), slope, dprob.row(t));
        }
    }
};

/// a sum_e P_e f_e + h mean_t H(p_t) with f_e the share of top-K choices (LoRA-Mixer, arXiv 2507.00029). The
/// paper prints h = -0.1, which raises the entropy; its prose asks for decided routers, which is h > 0.
template <index_t K = 3, coefficient A = coefficient{1.0}, coefficient H = coefficient{-0.1}>
struct specialisation {
    static_assert(K > 0, "mox::balance::specialisation: k must be positive");
    using policy = route::balance_policy;
    static constexpr std::string_view name = "specialisation";

    template <class T>
    static T value(const route::router_view<T>& r) {
        if (r.tokens() == 0) return T(0);
        T sum = 0;
        for_each_share(r, [&](index_t e, T f) { sum += detail::mean_probability(r, e) * f; });
        T entropy = 0;
        for (index_t t = 0; t < r.tokens(); ++t) {
            for (index_t e = 0; e < r.outputs(); ++e)
                entropy -= r.probability(t, e) * log_probability(r, t, e);
        }
        return static_cast<T>(A.value) * sum + static_cast<T>(H.value) * entropy / static_cast<T>(r.tokens());
    }
    template <class T>
    static void gradient(const route::router_view<T>& r, T scale, matrix_view<T> dprob,
                         matrix_view<T> dlogits) {
        if (r.tokens() == 0) return;
        const T per_token = scale / static_cast<T>(r.tokens());
        for_each_share(r, [&](index_t e, T f) {
            detail::add_to_column(dprob, e, per_token * static_cast<T>(A.value) * f);
        });
        // Through the logits, where p ln p has no singularity: dH/dl_e = -p_e (ln p_e + H).
        for (index_t t = 0; t < r.tokens(); ++t) {
            T entropy = 0;
            for (index_t e = 0; e < r.outputs(); ++e)
                entropy -= r.probability(t, e) * log_probability(r, t, e);
            for (index_t e = 0; e < r.outputs(); ++e) {
                dlogits(t, e) -= per_token * static_cast<T>(H.value) * r.probability(t, e) *
                                 (log_probability(r, t, e) + entropy);
            }
        }
    }

private:
    template <class T>
    static T log_probability(const route::router_view<T>& r, index_t t, index_t e) {
        return r.logits(t, e) - r.log_sum_exp[t];
    }
    // visit(e, share of the top-K choices of all tokens)
    template <class T, class Visit>
    static void for_each_share(const route::router_view<T>& r, Visit&& visit) {
        const index_t k = std::min(K, r.outputs());
        for (index_t e = 0; e < r.outputs(); ++e) {
            index_t count = 0;
            for (index_t t = 0; t < r.tokens(); ++t) {
                // Rank of e among the logits of its token, ties to the lowest index.
                index_t before = 0;
                for (index_t o = 0; o < r.outputs(); ++o) {
                    before += kernel::detail::goes_first(r.logits(t, o), static_cast<row_t>(o),
                                                         r.logits(t, e), static_cast<row_t>(e))
                                  ? 1
                                  : 0;
                }
                count += before < k ? 1 : 0;
            }
            visit(e, static_cast<T>(count) / static_cast<T>(r.tokens() * k));
        }
    }
};

/// Localised balance (LoRAMoE, arXiv 2312.09979): the squared coefficient of variation, over all sequences j
/// and experts e, of I_je Q_je. Q_je is the mass of expert e in sequence j; I_je is 1 + D when the group of e
/// is the type of j, else 1 - D. Experts below E/2 form group 1, the others group 0. Types are
/// the labels of the batch (batch::with_labels); without them all sequences are of type 0. Minimising makes
/// I Q uniform, so a positive D asks matching experts for less; give a negative D to specialise. Throws
/// mox::error for another label.
template <coefficient B = coefficient{0.1}, coefficient D = coefficient{0.1}>
struct localised {
    using policy = route::balance_policy;
    static constexpr std::string_view name = "localised";

    template <class T>
    static T value(const route::router_view<T>& r) {
        if (r.sequence_labels)
            check::ids("mox::balance::localised", "labels", r.sequence_labels, r.sequences, 2);
        const moments<T> m(r);
        return m.count < 2 ? T(0) : static_cast<T>(B.value) * m.variance / (m.mean * m.mean + T(1e-10));
    }
    template <class T>
    static void gradient(const route::router_view<T>& r, T scale, matrix_view<T> dprob, matrix_view<T>) {
        const moments<T> m(r);
        if (m.count < 2) return;
        const T square = m.mean * m.mean + T(1e-10);
        const T factor = scale * static_cast<T>(B.value);
        for (index_t j = 0; j < r.sequences; ++j) {
            for (index_t e = 0; e < r.outputs(); ++e) {
                const T i = importance<T>(r, j, e);
                const T z = i * mass(r, j, e);
                const T dz = 2 * (z - m.mean) / (static_cast<T>(m.count - 1) * square) -
                             2 * m.variance * m.mean / (static_cast<T>(m.count) * square * square);
                for (index_t t = r.sequence_offsets[j]; t < r.sequence_offsets[j + 1]; ++t)
                    dprob(t, e) += factor * dz * i;
            }
        }
    }

private:
    template <class T>
    static T mass(const route::router_view<T>& r, index_t j, index_t e) {
        T sum = 0;
        for (index_t t = r.sequence_offsets[j]; t < r.sequence_offsets[j + 1]; ++t)
            sum += r.probability(t, e);
        return sum;
    }
    template <class T>
    static T importance(const route::router_view<T>& r, index_t j, index_t e) {
        const row_t group = e < r.outputs() / 2 ? 1 : 0;
        const row_t type = r.sequence_labels ? r.sequence_labels[j] : 0;
        return T(1) + (group == type ? static_cast<T>(D.value) : -static_cast<T>(D.value));
    }
    template <class T>
    struct moments {
        index_t count;
        T mean = 0, variance = 0;
        explicit moments(const route::router_view<T>& r) : count(r.sequences * r.outputs()) {
            if (count < 2) return;
            for_each(r, [&](T z) { mean += z; });
            mean /= static_cast<T>(count);
            for_each(r, [&](T z) { variance += (z - mean) * (z - mean); });
            variance /= static_cast<T>(count - 1);
        }
        template <class Visit>
        static void for_each(const route::router_view<T>& r, Visit&& visit) {
            for (index_t j = 0; j < r.sequences; ++j) {
                for (index_t e = 0; e < r.outputs(); ++e) visit(importance<T>(r, j, e) * mass(r, j, e));
            }
        }
    };
};

}  // namespace mox::inline MOX_ABI::balance
