#pragma once

#include <mox/exec/executor.hpp>
#include <mox/kernel/topk.hpp>
#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI::route {

/// Every token chooses its K experts with the largest logits, best first; ties go to the lowest index.
/// (Outrageously Large Neural Networks, arXiv 1701.06538; Mixtral, arXiv 2401.04088.)
template <index_t K>
struct top_k {
    static_assert(K > 0, "mox::route::top_k: k must be positive");

    using policy = selector_policy;
    static constexpr std::string_view name = "top_k";
    static constexpr index_t slots = K;

    /// chosen: tokens x K.
    template <class T>
    static void select(executor_ref exec, matrix_view<const T> logits, row_t* chosen) {
        kernel::top_k_rows<T>(exec, logits, K, chosen);
    }
};

}  // namespace mox::inline MOX_ABI::route
