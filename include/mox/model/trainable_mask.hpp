#pragma once

#include <string>
#include <vector>

#include <mox/layer/blocks.hpp>
#include <mox/model/params.hpp>

namespace mox::inline MOX_ABI {

/// Which blocks a step trains. Blocks are the repetitions of the outermost mox::repeat of Net, counted
/// through in order; a layer written once becomes one as repeat<1, layer>. All else, such as embedding and
/// head, is always trained, and what lies under mox::frozen never.
///
///     auto draw = mox::schedule::lisa(mask.blocks, {.active = 2, .interval = 20}, seed);
///     mask.only(draw(step));                             // mox::trainable_mask<net> mask;
///     mox::backward<net>(weights, tape, grads, mask);
///     mox::clip_by_global_norm(grads, mask, 1.0);
///     adam.step(weights, grads, mask);
///
/// Forward does not change. Backward passes the gradient of the input through a masked block and computes
/// none of its weights, whose old values stay in `grads`: give the same mask to norm, clipping and step. Its
/// weights, moments and number of steps (for the bias correction) stay as they are. A selection bias has no
/// gradient; update_selection_bias moves it in masked blocks too.
template <class Net, class T = float>
class trainable_mask {
public:
    static constexpr index_t blocks = block_count<Net>();

    /// Every block is trained.
    trainable_mask() {
        static_assert(blocks > 0, "mox::trainable_mask: the network has no blocks to choose from; blocks are "
                                  "the repetitions of mox::repeat");
        ranges_.reserve(static_cast<std::size_t>(blocks));
        for_each_block<Net, T>([&](index_t begin, index_t end) { ranges_.push_back({begin, end, true}); });
    }

    void all() noexcept {
        for (block_range& r : ranges_) r.trains = true;
    }
    /// Trains these blocks and no others.
    void only(std::span<const index_t> chosen) {
        for (const index_t b : chosen) check_block("mox::trainable_mask::only", "chosen", b);
        for (block_range& r : ranges_) r.trains = false;
        for (const index_t b : chosen) ranges_[static_cast<std::size_t>(b)].trains = true;
    }
    void set(index_t block, bool trains) {
        check_block("mox::trainable_mask::set", "block", block);
        ranges_[static_cast<std::size_t>(block)].trains = trains;
    }

    bool trains(index_t block) const {
        check_block("mox::trainable_mask::trains", "block", block);
        return ranges_[static_cast<std::size_t>(block)].trains;
    }
    /// Number of blocks that are trained.
    index_t active() const noexcept {
        index_t n = 0;
        for (const block_range& r : ranges_) n += r.trains ? 1 : 0;
        return n;
    }

    /// All blocks, in order.
    std::span<const block_range> ranges() const noexcept { return ranges_; }

    /// visit(begin, end) for the longest runs of params::flat() that hold no masked block.
    template <class Visit>
    void for_each_trained_run(Visit&& visit) const {
        index_t begin = 0;
        for (const block_range& r : ranges_) {
            if (r.trains) continue;
            if (r.begin > begin) visit(begin, r.begin);
            begin = r.end;
        }
        constexpr index_t end = parameter_extent<Net, T>().trained;
        if (end > begin) visit(begin, end);
    }

private:
    static void check_block(std::string_view call, std::string_view argument, index_t block) {
        // The sentence is put together only when it is needed: steps must not allocate.
        if constexpr (MOX_CHECK_LEVEL >= 1) {
            if (block < 0 || block >= blocks) {
                check::fail(call, "argument '" + std::string(argument) + "' must name blocks from 0 to " +
                                      std::to_string(blocks - 1) + ", got " + std::to_string(block));
            }
        }
    }

    std::vector<block_range> ranges_;
};

}  // namespace mox::inline MOX_ABI
