#pragma once

// The plan: which expert computes which tokens, with which weight. Built once per router by a counting sort,
// used by every product of forward and backward.

#include <algorithm>

#include <mox/core/buffer.hpp>
#include <mox/kernel/grouped.hpp>

namespace mox::inline MOX_ABI::route {

/// Slots sorted by expert; inside an expert tokens ascend. Null and dropped choices have no slot.
template <class T>
struct plan {
    index_t tokens = 0;
    index_t experts = 0;             ///< true experts
    index_t choices = 0;             ///< choices per token
    index_t slots = 0;               ///< active (token, expert) pairs
    index_t dropped = 0;             ///< pairs lost to capacity
    const row_t* offsets = nullptr;  ///< [experts + 1]
    const row_t* token = nullptr;    ///< [slots] the row an expert reads and writes
    const row_t* choice = nullptr;   ///< [slots] token * choices + j, for gradients on their way back
    const T* gate = nullptr;         ///< [slots] weight of the output
    const row_t* counts = nullptr;   ///< [outputs] choices per expert before dropping, null experts included

    kernel::group_view groups() const noexcept { return {offsets, experts}; }
};

/// Builds a plan in `memory`. chosen: tokens x choices, values below `outputs`; those from `experts` on are
/// null experts, -1 is nobody. gate: tokens x choices. `limit`: most tokens of one expert; `chosen` gets -1
/// where a slot is dropped.
template <class T>
plan<T> make_plan(arena& memory, index_t tokens, index_t choices, index_t experts, index_t outputs,
                  row_t* chosen, const T* gate, index_t limit) {
    plan<T> p;
    p.tokens = tokens;
    p.experts = experts;
    p.choices = choices;
    row_t* counts = memory.take<row_t>(outputs);
    row_t* offsets = memory.take<row_t>(experts + 1);
    row_t* next = memory.take<row_t>(experts + 1);
    row_t* token = memory.take<row_t>(tokens * choices);
    row_t* choice = memory.take<row_t>(tokens * choices);
    T* weight = memory.take<T>(tokens * choices);

    std::fill_n(counts, outputs, row_t{0});
    for (index_t i = 0; i < tokens * choices; ++i) {
        if (chosen[i] >= 0) ++counts[chosen[i]];
    }

    const index_t fullest = experts == 0 ? 0 : *std::max_element(counts, counts + experts);
    if (fullest > limit) {
        std::fill_n(next, experts, row_t{0});
        for (index_t j = 0; j < choices; ++j) {
            for (index_t t = 0; t < tokens; ++t) {
                row_t& e = chosen[t * choices + j];
                if (e < 0 || e >= experts) continue;
                if (next[e] < limit) {
                    ++next[e];
                } else {
                    e = -1;
                    ++p.dropped;
                }
            }
        }
    } else {
        std::copy_n(counts, experts, next);
    }

    offsets[0] = 0;
    for (index_t e = 0; e < experts; ++e) offsets[e + 1] = offsets[e] + next[e];
    std::copy_n(offsets, experts, next);
    for (index_t i = 0; i < tokens * choices; ++i) {
        const row_t e = chosen[i];
        if (e < 0 || e >= experts) continue;
        const row_t s = next[e]++;
        token[s] = static_cast<row_t>(i / choices);
        choice[s] = static_cast<row_t>(i);
        weight[s] = gate[i];
    }
    p.slots = offsets[experts];
    p.offsets = offsets;
    p.token = token;
    p.choice = choice;
    p.gate = weight;
    p.counts = counts;
    return p;
}

}  // namespace mox::inline MOX_ABI::route
