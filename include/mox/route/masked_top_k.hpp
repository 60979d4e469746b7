#pragma once

#include <mox/core/error.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/topk.hpp>
#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI::route {

/// Every token chooses the K largest logits among the experts that its sequence may use
/// (batch::with_allowed_experts), best first; ties go to the lowest index. With the default gate this is the
/// fine stage of MoVA (arXiv 2404.13046): softmax with a mask, the K largest kept and divided by their sum.
/// A sequence that may use fewer than K experts gets those; one that may use none gets nothing. Throws
/// mox::error when the batch does not say, or says it for another number of experts than the router's.
template <index_t K>
struct masked_top_k {
    static_assert(K > 0, "mox::route::masked_top_k: k must be positive");

    using policy = selector_policy;
    static constexpr std::string_view name = "masked_top_k";
    static constexpr index_t slots = K;

    /// chosen: tokens x K, -1 behind the last one taken.
    template <class T>
    static void select(executor_ref exec, const router_view<T>& r, row_t* chosen) {
        if (r.tokens() == 0) return;
        check::that(r.allowed.data != nullptr, "mox::route::masked_top_k",
                    "the batch must say which experts each sequence may use; give them with "
                    "batch::with_allowed_experts");
        check::size("mox::route::masked_top_k", "allowed", "columns, one per output of the router",
                    r.outputs(), r.allowed.cols);
        parallel_ranges(exec, r.sequences, 4, [&](index_t first, index_t last) {
            for (index_t s = first; s < last; ++s) {
                for (index_t t = r.sequence_offsets[s]; t < r.sequence_offsets[s + 1]; ++t)
                    pick(r.logits.row(t), r.allowed.row(s), r.outputs(), chosen + t * K);
            }
        });
    }

private:
    template <class T>
    static void pick(const T* logits, const std::uint8_t* allowed, index_t outputs, row_t* chosen) {
        index_t held = 0;
        for (index_t e = 0; e < outputs; ++e) {
            if (!allowed[e]) continue;
            const auto first = [&](index_t at) {
                return kernel::detail::goes_first(logits[e], static_cast<row_t>(e), logits[chosen[at]],
                                                  chosen[at]);
            };
            if (held == K && !first(K - 1)) continue;
            index_t at = held < K ? held++ : K - 1;
            for (; at > 0 && first(at - 1); --at) chosen[at] = chosen[at - 1];
            chosen[at] = static_cast<row_t>(e);
        }
        for (; held < K; ++held) chosen[held] = -1;
    }
};

}  // namespace mox::inline MOX_ABI::route
