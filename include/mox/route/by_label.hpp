#pragma once

#include <mox/core/error.hpp>
#include <mox/exec/executor.hpp>
#include <mox/route/policy.hpp>
#include <mox/route/unscored.hpp>

namespace mox::inline MOX_ABI::route {

/// The host program chooses: all tokens of a sequence use the expert that the sequence's label names
/// (batch::with_labels), as with experts trained on labelled tasks (the hard phase of LoRA-Mixer, arXiv
/// 2507.00029). There is no router, and the weight of the expert is one with gate::one or without a gate
/// (gate::softmax would make 1/E of it). Adapters of different ranks in one batch are mox::lora_pool. Throws
/// mox::error when labels are missing or name no expert.
struct by_label {
    using policy = selector_policy;
    static constexpr std::string_view name = "by_label";
    static constexpr index_t slots = 1;
    /// Unless another is given.
    using scorer = unscored;

    template <class T>
    static void select(executor_ref, const router_view<T>& r, row_t* chosen) {
        check::that(r.sequence_labels != nullptr || r.tokens() == 0, "mox::route::by_label", labels_wanted);
        if (r.tokens() == 0) return;
        check::ids("mox::route::by_label", "labels", r.sequence_labels, r.sequences, r.experts);
        for (index_t s = 0; s < r.sequences; ++s) {
            for (index_t t = r.sequence_offsets[s]; t < r.sequence_offsets[s + 1]; ++t)
                chosen[t] = r.sequence_labels[s];
        }
    }
};

}  // namespace mox::inline MOX_ABI::route
