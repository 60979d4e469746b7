#pragma once

#include <mox/core/coefficient.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/topk.hpp>
#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI::route {

/// Every token takes experts in falling order of probability up to and including the first one that brings
/// their sum above P, at most `Most` (0: all). The dynamic variant of MixLoRA (arXiv 2404.15159) with
/// gate::softmax, whose weights are not divided again. route::entropy_broadcast leaves the crossing one out.
template <coefficient P, index_t Most = 0>
struct top_p {
    static_assert(P.value > 0 && Most >= 0, "mox::route::top_p: p must be positive, the limit not negative");
    using policy = selector_policy;
    static constexpr std::string_view name = "top_p";
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
                T before = 0;
                for (index_t j = 0; j < outputs; ++j) {
                    const T mine = p[pick[j]];
                    const bool limited = Most > 0 && j >= Most;
                    if (j > 0 && (limited || before > static_cast<T>(P.value))) pick[j] = -1;
                    before += mine;
                }
            }
        });
    }
};

}  // namespace mox::inline MOX_ABI::route
