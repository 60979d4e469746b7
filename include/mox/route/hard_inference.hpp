#pragma once

#include <algorithm>

#include <mox/exec/executor.hpp>
#include <mox/kernel/topk.hpp>
#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI::route {

/// Training mixes all experts, inference uses only the best one, the lowest index on ties (SteloCoder, arXiv
/// 2310.15539): the two differ by design. With the default gate the weights are softmax over all experts in
/// training and 1 in inference. Costs are stated for training.
struct hard_inference {
    using policy = selector_policy;
    static constexpr std::string_view name = "hard_inference";
    static constexpr bool all_slots = true;

    /// chosen: tokens x outputs; in inference -1 behind the best.
    template <class T>
    static void select(executor_ref exec, const router_view<T>& r, row_t* chosen) {
        const index_t outputs = r.outputs();
        parallel_ranges(exec, r.tokens(), 256, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                row_t* pick = chosen + t * outputs;
                if (r.training) {
                    for (index_t e = 0; e < outputs; ++e) pick[e] = static_cast<row_t>(e);
                } else {
                    std::fill_n(pick, outputs, row_t{-1});
                    kernel::top_k_row<T>(r.logits.row(t), outputs, 1, pick);
                }
            }
        });
    }
};

}  // namespace mox::inline MOX_ABI::route
