#pragma once

#include <mox/exec/executor.hpp>
#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI::route {

/// Every token uses every expert: soft mixing, the gate alone decides.
struct all {
    using policy = selector_policy;
    static constexpr std::string_view name = "all";
    static constexpr bool all_slots = true;

    /// chosen: tokens x outputs.
    template <class T>
    static void select(executor_ref exec, matrix_view<const T> logits, row_t* chosen) {
        parallel_ranges(exec, logits.rows, 256, [&](index_t begin, index_t end) {
            for (index_t i = begin * logits.cols; i < end * logits.cols; ++i)
                chosen[i] = static_cast<row_t>(i % logits.cols);
        });
    }
};

}  // namespace mox::inline MOX_ABI::route
