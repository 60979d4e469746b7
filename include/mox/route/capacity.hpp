#pragma once

#include <algorithm>
#include <string_view>

#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI::capacity {

/// No limit: nothing is ever dropped, and nothing is padded.
struct dropless {
    using policy = route::capacity_policy;
    static constexpr bool limited = false;
    static constexpr index_t limit(index_t tokens, index_t /*slots*/, index_t /*experts*/) { return tokens; }
};

/// At most ceil(c k N / E) tokens per expert, c in thousandths (Switch, arXiv 2101.03961). First choices are
/// admitted in token order, then second ones; a dropped slot contributes zero and its gate is not
/// redistributed.
template <index_t Permille>
struct factor {
    static_assert(Permille > 0, "mox::capacity::factor: the capacity factor must be positive");
    using policy = route::capacity_policy;
    static constexpr bool limited = true;
    static constexpr index_t limit(index_t tokens, index_t slots, index_t experts) {
        return std::max<index_t>(1, (Permille * slots * tokens + 1000 * experts - 1) / (1000 * experts));
    }
};

/// What becomes of a token whose expert is full: nothing, or its gate weight times the token itself.
enum class overflow { zero, token };

/// At most `Most` tokens of each sequence per expert, first choices in token order, then second ones: a
/// sequence's result does not depend on the rest of the batch. With overflow::token and route::top_k<1>,
/// gate::softmax it is the switch variant of MixLoRA's code (arXiv 2404.15159; 32 tokens): p expert(x), or p
/// x.
template <index_t Most, overflow Overflow = overflow::zero>
struct per_sequence {
    static_assert(Most > 0, "mox::capacity::per_sequence: the number of tokens must be positive");
    using policy = route::capacity_policy;
    static constexpr bool limited = true;
    static constexpr bool passes_tokens = Overflow == overflow::token;
    static constexpr index_t most = Most;
    static constexpr index_t limit(index_t tokens, index_t /*slots*/, index_t /*experts*/) { return tokens; }

    /// chosen: tokens x slots gets -1 where an expert is full; taken: room for a number per expert. Returns
    /// how many were dropped.
    static index_t admit(const row_t* offsets, index_t sequences, index_t slots, index_t experts,
                         row_t* chosen, row_t* taken) {
        index_t dropped = 0;
        for (index_t s = 0; s < sequences; ++s) {
            std::fill_n(taken, experts, row_t{0});
            for (index_t j = 0; j < slots; ++j) {
                for (index_t t = offsets[s]; t < offsets[s + 1]; ++t) {
                    row_t& e = chosen[t * slots + j];
                    if (e < 0 || e >= experts) continue;
                    if (taken[e] < Most) {
                        ++taken[e];
                    } else {
                        e = -1;
                        ++dropped;
                    }
                }
            }
        }
        return dropped;
    }
};

}  // namespace mox::inline MOX_ABI::capacity
