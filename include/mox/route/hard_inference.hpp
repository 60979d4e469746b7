#pragma once

#include <algorithm>

#include <mox/exec/executor.hpp>
#include <mox/kernel/topk.hpp>
#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI::route {

/// Training mixes all experts, inference uses only the K with the largest logits, ties to the lowest index:
/// the two differ by design (LoRA-Mixer, arXiv 2507.00029, K = 3). gate::softmax keeps the probabilities as
/// they are in both; gate::renormalised divides those of the K by their sum, so that K = 1 has weight 1.
/// Costs are stated for training.
template <index_t K>
struct soft_training {
    static_assert(K > 0, "mox::route::soft_training: k must be positive");
    using policy = selector_policy;
    static constexpr std::string_view name = "soft_training";
    static constexpr bool all_slots = true;

    /// chosen: tokens x outputs; in inference -1 behind the best K.
    template <class T>
    static void select(executor_ref exec, const router_view<T>& r, row_t* chosen) {
        const index_t outputs = r.outputs(), k = std::min(K, outputs);
        parallel_ranges(exec, r.tokens(), 256, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                row_t* pick = chosen + t * outputs;
                if (r.training) {
                    for (index_t e = 0; e < outputs; ++e) pick[e] = static_cast<row_t>(e);
                } else {
                    std::fill_n(pick, outputs, row_t{-1});
                    kernel::top_k_row<T>(r.logits.row(t), outputs, k, pick);
                }
            }
        });
    }
};

/// One expert, the best, in inference (SteloCoder, arXiv 2310.15539).
struct hard_inference : soft_training<1> {
    static constexpr std::string_view name = "hard_inference";
};

}  // namespace mox::inline MOX_ABI::route
