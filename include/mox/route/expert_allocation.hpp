#pragma once

#include <array>

#include <mox/core/error.hpp>
#include <mox/core/view.hpp>

namespace mox::inline MOX_ABI::route {

/// How many experts each layer has: as many layers one after the other as there are groups have the same
/// number, from low to high (MoLA, Higher Layers Need More LoRA Experts, arXiv 2402.08562). Known at compile
/// time, so that a layer's type can ask: lora_experts<base, route::inverted_triangle(17, 32), ...>.
template <std::size_t Groups>
struct expert_allocation {
    std::array<index_t, Groups> experts;

    /// Of layer 0 ... layers - 1. Groups are as equal as the number of layers allows. Throws mox::error for
    /// another layer; does not compile where that is seen.
    constexpr index_t operator()(index_t layer, index_t layers) const {
        if (layer < 0 || layer >= layers)
            check::fail("mox::route::expert_allocation", "argument 'layer' must lie in [0, layers)");
        return experts[static_cast<std::size_t>(layer * static_cast<index_t>(Groups) / layers)];
    }
    /// Of all layers together.
    constexpr index_t total(index_t layers) const {
        index_t sum = 0;
        for (index_t l = 0; l < layers; ++l) sum += (*this)(l, layers);
        return sum;
    }
};

inline constexpr expert_allocation<4> inverted_triangle{{2, 4, 6, 8}};  ///< the paper's recommendation
inline constexpr expert_allocation<4> triangle{{8, 6, 4, 2}};
inline constexpr expert_allocation<4> hourglass{{8, 2, 2, 8}};
inline constexpr expert_allocation<4> rectangle{{5, 5, 5, 5}};

}  // namespace mox::inline MOX_ABI::route
