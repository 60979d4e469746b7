#pragma once

// The blocks of a network: the repetitions of its outermost mox::repeat, in order. They are what a step may
// leave out of training (model/trainable_mask.hpp). Where a block's numbers begin names the block, so layers
// in between need not know of them.

#include <span>

#include <mox/layer/parameter.hpp>

namespace mox::inline MOX_ABI {

/// The numbers of one block in the buffer of what is trained, and whether this step trains them.
struct block_range {
    index_t begin = 0, end = 0;
    bool trains = true;
};

/// Gradients of a network and the blocks in them. Without blocks nothing is left out.
template <class T>
struct block_gradients {
    const T* base = nullptr;
    std::span<const block_range> ranges;

    /// Whether nobody wants the gradients that begin here.
    bool skip(const T* first) const noexcept {
        for (const block_range& r : ranges) {
            if (base + r.begin == first) return !r.trains;
        }
        return false;
    }
};

/// Calls visit(begin, end) for every block of L, in order: its range in the buffer of what is trained. What
/// has nothing to train is no block.
template <class L, class T, class Visit>
constexpr void for_each_block(Visit&& visit, index_t at = 0) {
    if constexpr (!freezes<L>()) {
        using layout = detail::layout_of<L, T>;
        constexpr index_t size = layout::child_offsets.back().trained;
        for (index_t r = 0; r < repetitions<L>(); ++r) {
            const index_t begin = at + layout::own_end.trained + r * size;
            if constexpr (requires { L::makes_blocks; }) {
                if (size > 0) visit(begin, begin + size);
            } else {
                for_each_index<children_of<L>::size>([&](auto i) {
                    for_each_block<typename children_of<L>::template at<i>, T>(
                        visit, begin + layout::child_offsets[i].trained);
                });
            }
        }
    }
}

template <class L>
constexpr index_t block_count() noexcept {
    index_t n = 0;
    for_each_block<L, float>([&](index_t, index_t) { ++n; });
    return n;
}

}  // namespace mox::inline MOX_ABI
