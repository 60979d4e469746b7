#pragma once

#include <cmath>

#include <mox/core/coefficient.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/topk.hpp>
#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI {

/// How undecided a distribution is, from 0 (certain) to 1 (uniform). Probabilities are taken 1e-5 larger than
/// they are, as the authors' code does, so a uniform one may come out slightly above 1. One expert alone is
/// always certain: 0. add_gradient: dp[e] += scale d value / d p[e].
namespace entropy {

/// -sum p ln p / ln E.
struct shannon {
    template <class T>
    static T value(const T* p, index_t count) {
        if (count < 2) return T(0);
        T sum = 0;
        for (index_t e = 0; e < count; ++e) {
            const T q = p[e] + T(1e-5);
            sum -= q * std::log(q);
        }
        return sum / std::log(static_cast<T>(count));
    }
    template <class T>
    static void add_gradient(const T* p, index_t count, T scale, T* dp) {
        if (count < 2) return;
        const T unit = scale / std::log(static_cast<T>(count));
        for (index_t e = 0; e < count; ++e) dp[e] -= unit * (std::log(p[e] + T(1e-5)) + T(1));
    }
};

/// (1 - sum p^q) / (q - 1), divided by its value for the uniform distribution (DynMoLE, arXiv 2504.00661).
template <coefficient Q = coefficient{1.1}>
struct tsallis {
    static_assert(Q.value > 0 && Q.value != 1,
                  "mox::entropy::tsallis: q must be positive and not 1; q = 1 is "
                  "mox::entropy::shannon");
    template <class T>
    static T value(const T* p, index_t count) {
        if (count < 2) return T(0);
        T sum = 0;
        for (index_t e = 0; e < count; ++e) sum += std::pow(p[e] + T(1e-5), q<T>);
        return (T(1) - sum) / (q<T> - T(1)) / largest<T>(count);
    }
    template <class T>
    static void add_gradient(const T* p, index_t count, T scale, T* dp) {
        if (count < 2) return;
        const T unit = scale * q<T> / ((q<T> - T(1)) * largest<T>(count));
        for (index_t e = 0; e < count; ++e) dp[e] -= unit * std::pow(p[e] + T(1e-5), q<T> - T(1));
    }

private:
    template <class T>
    static constexpr T q = static_cast<T>(Q.value);
    template <class T>
    static T largest(index_t count) {
        return (T(1) - std::pow(static_cast<T>(count), T(1) - q<T>)) / (q<T> - T(1));
    }
};

/// ln(sum p^a) / ((1 - a) ln E), Renyi's entropy (the third one of DynMoLE's code).
template <coefficient A = coefficient{2.0}>
struct renyi {
    static_assert(A.value > 0 && A.value != 1,
                  "mox::entropy::renyi: a must be positive and not 1; a = 1 is mox::entropy::shannon");
    template <class T>
    static T value(const T* p, index_t count) {
        return count < 2 ? T(0) : std::log(sum<T>(p, count)) / divisor<T>(count);
    }
    template <class T>
    static void add_gradient(const T* p, index_t count, T scale, T* dp) {
        if (count < 2) return;
        const T unit = scale * a<T> / (divisor<T>(count) * sum<T>(p, count));
        for (index_t e = 0; e < count; ++e) dp[e] += unit * std::pow(p[e] + T(1e-5), a<T> - T(1));
    }

private:
    template <class T>
    static constexpr T a = static_cast<T>(A.value);
    template <class T>
    static T sum(const T* p, index_t count) {
        T all = 0;
        for (index_t e = 0; e < count; ++e) all += std::pow(p[e] + T(1e-5), a<T>);
        return all + T(1e-10);
    }
    template <class T>
    static T divisor(index_t count) {
        return (T(1) - a<T>)*std::log(static_cast<T>(count));
    }
};

}  // namespace entropy

namespace route {

/// Undecided tokens (entropy above the threshold) use all experts. The others take experts in falling order
/// of probability while the sum, the expert included, stays within TopP, and always the first Keep (DynMoLE,
/// arXiv 2504.00661). A threshold of 1 or more never uses all; one of 0 does for all but
/// tokens within about 1e-5 of certainty, whose entropy is zero or less (the code adds 1e-5 to each p). With
/// TopP = 1 the last expert is left out where rounding brings the sum above 1, as in the authors' code.
template <class Entropy = entropy::tsallis<>, coefficient Threshold = coefficient{0.9},
          coefficient TopP = coefficient{0.75}, index_t Keep = 2>
struct entropy_broadcast {
    static_assert(Keep >= 0, "mox::route::entropy_broadcast: the number kept must not be negative");
    using policy = selector_policy;
    static constexpr std::string_view name = "entropy_broadcast";
    static constexpr bool all_slots = true;
    static constexpr bool needs_probability = true;

    /// chosen: tokens x outputs, best first, -1 behind the last one taken.
    template <class T>
    static void select(executor_ref exec, const router_view<T>& r, row_t* chosen) {
        const index_t outputs = r.outputs();
        parallel_ranges(exec, r.tokens(), 64, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                const T* p = r.probability.row(t);
                row_t* pick = chosen + t * outputs;
                kernel::top_k_row<T>(p, outputs, outputs, pick);
                if (Threshold.value < 1 && Entropy::value(p, outputs) > static_cast<T>(Threshold.value))
                    continue;
                T sum = 0;
                for (index_t j = 0; j < outputs; ++j) {
                    sum += p[pick[j]];
                    if (j >= Keep && !(sum <= static_cast<T>(TopP.value))) pick[j] = -1;
                }
            }
        });
    }
};

}  // namespace route
}  // namespace mox::inline MOX_ABI
