#pragma once

#include <cmath>

#include <mox/core/coefficient.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/topk.hpp>
#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI {

/// How undecided a distribution is, from 0 (certain) to 1 (uniform).
namespace entropy {

/// -sum p ln p / ln E.
struct shannon {
    template <class T>
    static T value(const T* p, index_t count) {
        T sum = 0;
        for (index_t e = 0; e < count; ++e) {
            const T q = p[e] + T(1e-5);
            sum -= q * std::log(q);
        }
        return sum / std::log(static_cast<T>(count));
    }
    /// d value / d p[e].
    template <class T>
    static T derivative(T p, index_t count) {
        return -(std::log(p + T(1e-5)) + T(1)) / std::log(static_cast<T>(count));
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
        T sum = 0;
        for (index_t e = 0; e < count; ++e) sum += std::pow(p[e] + T(1e-5), q<T>);
        return (T(1) - sum) / (q<T> - T(1)) / largest<T>(count);
    }
    template <class T>
    static T derivative(T p, index_t count) {
        return -q<T> * std::pow(p + T(1e-5), q<T> - T(1)) / ((q<T> - T(1)) * largest<T>(count));
    }

private:
    template <class T>
    static constexpr T q = static_cast<T>(Q.value);
    template <class T>
    static T largest(index_t count) {
        return (T(1) - std::pow(static_cast<T>(count), T(1) - q<T>)) / (q<T> - T(1));
    }
};

}  // namespace entropy

namespace route {

/// Undecided tokens (entropy above the threshold) use all experts. The others take experts in falling order
/// of probability while the sum, the expert included, stays within TopP, and always the first Keep (DynMoLE,
/// arXiv 2504.00661). A threshold of 1 or more never uses all; one of 0 always does.
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
