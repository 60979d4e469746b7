#pragma once

// Which blocks a step trains, drawn anew every few steps: LISA (arXiv 2403.17919) and OwLore (arXiv
// 2405.18380). OwLore projects the gradients of the blocks it draws to a low rank:
// train/projected_adamw.hpp.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <mox/core/error.hpp>
#include <mox/core/random.hpp>
#include <mox/core/view.hpp>

namespace mox::inline MOX_ABI {

/// Every `interval` steps, beginning with step 0, draws `active` different blocks with the given
/// probabilities: one after the other, each among those that are left. The blocks of a step depend on the
/// seed and the step's interval only, so any step can be asked for.
class block_schedule {
public:
    /// probabilities: one per block, not negative; only their ratios count. `call` begins the sentences of
    /// errors.
    block_schedule(std::vector<double> probabilities, index_t active, index_t interval, std::uint64_t seed,
                   std::string_view call = "mox::block_schedule")
        : probabilities_(std::move(probabilities)), interval_(interval), seed_(seed) {
        double sum = 0;
        index_t positive = 0;
        for (const double p : probabilities_) {
            check::that(std::isfinite(p) && p >= 0, call,
                        "argument 'probabilities' must hold finite numbers that are not negative");
            sum += p;
        }
        check::that(std::isfinite(sum), call, "argument 'probabilities' must have a finite sum");
        for (double& p : probabilities_) {
            p /= sum;
            positive += p > 0 ? 1 : 0;
        }
        check::that(positive > 0, call,
                    "argument 'probabilities' must hold a number above zero, or no block could be drawn");
        check::that(active > 0 && active <= blocks(), call,
                    "option 'active' must lie between 1 and the number of blocks, " +
                        std::to_string(blocks()) + ", got " + std::to_string(active));
        check::that(active <= positive, call,
                    "option 'active' must not exceed the number of blocks whose probability is above zero, " +
                        std::to_string(positive) + ", got " + std::to_string(active));
        check::that(interval > 0, call, "option 'interval' must be at least one step");
        left_.resize(probabilities_.size());
        drawn_.resize(static_cast<std::size_t>(active));
        draw(0);
    }

    index_t blocks() const noexcept { return static_cast<index_t>(probabilities_.size()); }
    index_t active() const noexcept { return static_cast<index_t>(drawn_.size()); }
    index_t interval() const noexcept { return interval_; }
    /// Of the first draw of an interval; their sum is 1.
    std::span<const double> probabilities() const noexcept { return probabilities_; }

    /// The blocks that step trains, ascending; for trainable_mask::only. Valid until the next call. Steps
    /// count from 0.
    std::span<const index_t> operator()(index_t step) {
        check::that(step >= 0, "mox::block_schedule", "argument 'step' must not be negative");
        if (step / interval_ != current_) draw(step / interval_);
        return drawn_;
    }

private:
    void draw(index_t number) {
        const random_stream random(seed_, static_cast<std::uint64_t>(number));
        std::copy(probabilities_.begin(), probabilities_.end(), left_.begin());
        std::uint64_t i = 0;
        for (index_t& chosen : drawn_) {
            double sum = 0;
            for (const double p : left_) sum += p;
            double rest = random.uniform(i++) * sum;
            // Rounding may leave a rest behind the last block; that block is then the one.
            std::size_t at = 0;
            for (std::size_t b = 0; b < left_.size(); ++b) {
                if (left_[b] == 0) continue;
                at = b;
                if (rest < left_[b]) break;
                rest -= left_[b];
            }
            chosen = static_cast<index_t>(at);
            left_[at] = 0;
        }
        std::sort(drawn_.begin(), drawn_.end());
        current_ = number;
    }

    std::vector<double> probabilities_, left_;
    std::vector<index_t> drawn_;
    index_t interval_ = 1;
    index_t current_ = 0;
    std::uint64_t seed_ = 0;
};

namespace schedule {

struct block_options {
    index_t active = 2;     ///< gamma of the papers: blocks that are trained
    index_t interval = 20;  ///< K of the papers: steps with the same blocks
};

/// LISA, Layerwise Importance Sampling for Memory-Efficient Large Language Model Fine-Tuning (arXiv
/// 2403.17919): every block is as likely as the others. Embedding and head are trained in every step.
inline block_schedule lisa(index_t blocks, const block_options& options = {}, std::uint64_t seed = 0) {
    check::that(blocks > 0, "mox::schedule::lisa", "argument 'blocks' must be positive");
    return {std::vector<double>(static_cast<std::size_t>(blocks), 1.0), options.active, options.interval,
            seed, "mox::schedule::lisa"};
}

/// OwLore, Outlier-weighed Layerwise Sampled Low-Rank Projection (arXiv 2405.18380): blocks with more
/// outliers are trained more often, their matrices by mox::projected_adamw. Throws mox::error when there is
/// not one probability for each block; train/owlore.hpp computes them.
inline block_schedule owlore(index_t blocks, std::span<const double> probabilities,
                             const block_options& options = {.active = 5, .interval = 50},
                             std::uint64_t seed = 0) {
    check::size("mox::schedule::owlore", "probabilities", "elements (one per block)", blocks,
                ssize_of(probabilities));
    return {std::vector<double>(probabilities.begin(), probabilities.end()), options.active, options.interval,
            seed, "mox::schedule::owlore"};
}

}  // namespace schedule
}  // namespace mox::inline MOX_ABI
