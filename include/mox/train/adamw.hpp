#pragma once

#include <cmath>
#include <span>
#include <vector>

#include <mox/model/params.hpp>
#include <mox/model/trainable_mask.hpp>
#include <mox/train/clip.hpp>

namespace mox::inline MOX_ABI {

struct adamw_options {
    double rate = 1e-3;
    double beta1 = 0.9;
    double beta2 = 0.95;
    double epsilon = 1e-8;
    double decay = 0.1;  ///< decoupled; not on norms, biases and router vectors
};

/// AdamW (Decoupled Weight Decay Regularization, arXiv 1711.05101): moments with bias correction,
/// w -= rate * (m / (sqrt(v) + epsilon) + decay * w). Works on the panels as they lie in memory. What is not
/// trained has no moments and stays as it is.
template <class Net, class T = float>
class adamw {
public:
    adamw() : adamw(adamw_options{}) {}
    explicit adamw(const adamw_options& options) : options_(options) {
        check::that(options.rate >= 0 && options.epsilon > 0, "mox::adamw",
                    "option 'rate' must not be negative and 'epsilon' must be positive");
        check::that(options.beta1 >= 0 && options.beta1 < 1 && options.beta2 >= 0 && options.beta2 < 1,
                    "mox::adamw", "options 'beta1' and 'beta2' must lie in [0, 1)");
        std::vector<block_range> blocks;
        for_each_block<Net, T>([&](index_t begin, index_t end) { blocks.push_back({begin, end}); });
        block_steps_.assign(blocks.size(), 0);
        for (const tensor_info& t : params<Net, T>::tensors()) {
            if (!t.spec.trained) continue;
            const index_t size = tensor_elements<T>(t.spec);
            const std::size_t block = find_block(blocks, t.offset);
            if (!spans_.empty() && spans_.back().decays == t.spec.decays && spans_.back().block == block &&
                spans_.back().begin + spans_.back().size == t.offset) {
                spans_.back().size += size;
            } else {
                spans_.push_back({t.offset, size, block, t.spec.decays});
            }
        }
    }

    adamw_options& options() noexcept { return options_; }
    const adamw_options& options() const noexcept { return options_; }
    index_t steps() const noexcept { return steps_; }
    /// How many of them trained this block (model/trainable_mask.hpp).
    index_t steps(index_t block) const {
        check::that(block >= 0 && block < static_cast<index_t>(block_steps_.size()), "mox::adamw::steps",
                    "argument 'block' must name a block of the network, the repetitions of mox::repeat");
        return block_steps_[static_cast<std::size_t>(block)];
    }

    /// `factor` scales the rate of this step (a schedule's value).
    void step(params<Net, T>& weights, const params<Net, T>& grads, double factor = 1.0,
              executor_ref exec = {}) {
        update(weights, grads, {}, factor, exec);
    }

    /// The same without the blocks that `mask` does not train: their weights, moments and number of steps
    /// stay as they are, so that the bias correction of a block counts only the steps that trained it.
    void step(params<Net, T>& weights, const params<Net, T>& grads, const trainable_mask<Net, T>& mask,
              double factor = 1.0, executor_ref exec = {}) {
        update(weights, grads, mask.ranges(), factor, exec);
    }

    /// Bytes of the moments.
    std::size_t bytes() const noexcept { return m_.flat().size_bytes() + v_.flat().size_bytes(); }

    /// The moments, laid out like params::flat().
    std::span<const T> first_moments() const noexcept { return m_.flat(); }
    std::span<const T> second_moments() const noexcept { return v_.flat(); }

private:
    static constexpr std::size_t no_block = static_cast<std::size_t>(-1);

    // Neighbouring tensors of one block with the same decay, joined. Tensors are padded to 64 bytes, so full
    // registers fit.
    struct span_t {
        index_t begin = 0, size = 0;
        std::size_t block = no_block;
        bool decays = true;
    };

    static std::size_t find_block(const std::vector<block_range>& blocks, index_t offset) {
        for (std::size_t b = 0; b < blocks.size(); ++b) {
            if (offset >= blocks[b].begin && offset < blocks[b].end) return b;
        }
        return no_block;
    }

    // blocks: whether each is trained; none given means all are.
    void update(params<Net, T>& weights, const params<Net, T>& grads, std::span<const block_range> blocks,
                double factor, executor_ref exec) {
        ++steps_;
        for (std::size_t b = 0; b < block_steps_.size(); ++b) {
            if (blocks.empty() || blocks[b].trains) ++block_steps_[b];
        }
        const double rate = options_.rate * factor;
        const T b1 = static_cast<T>(options_.beta1), b2 = static_cast<T>(options_.beta2);
        const T epsilon = static_cast<T>(options_.epsilon);
        T* w = weights.flat().data();
        T* m = m_.flat().data();
        T* v = v_.flat().data();
        const T* g = grads.flat().data();
        index_t counted = 0;  // the steps that scale and root stand for
        T scale = 0, root = 0;
        for (const span_t& s : spans_) {
            if (s.block != no_block && !blocks.empty() && !blocks[s.block].trains) continue;
            const index_t steps = s.block == no_block ? steps_ : block_steps_[s.block];
            if (steps != counted) {
                const double c1 = 1.0 - std::pow(options_.beta1, static_cast<double>(steps));
                const double c2 = 1.0 - std::pow(options_.beta2, static_cast<double>(steps));
                scale = static_cast<T>(rate / c1);
                root = static_cast<T>(1.0 / std::sqrt(c2));
                counted = steps;
            }
            const T shrink = s.decays ? static_cast<T>(1.0 - rate * options_.decay) : T(1);
            parallel_ranges(
                exec, s.size, detail::flat_block,
                [&](index_t begin, index_t end) {
                    using vec = simd::batch<T>;
                    const vec vb1(b1), vb2(b2), vc1(T(1) - b1), vc2(T(1) - b2), vscale(scale), vroot(root),
                        veps(epsilon), vshrink(shrink);
                    for (index_t i = s.begin + begin; i < s.begin + end; i += simd::lanes<T>) {
                        const vec gi = simd::load(g + i);
                        const vec mi = simd::fma(vb1, simd::load(m + i), vc1 * gi);
                        const vec vi = simd::fma(vb2, simd::load(v + i), vc2 * gi * gi);
                        simd::store(m + i, mi);
                        simd::store(v + i, vi);
                        const vec update = vscale * mi / simd::fma(simd::sqrt(vi), vroot, veps);
                        simd::store(w + i, vshrink * simd::load(w + i) - update);
                    }
                },
                16);
        }
    }

    adamw_options options_;
    index_t steps_ = 0;
    std::vector<index_t> block_steps_;  // per block: the steps that trained it
    params<Net, T> m_, v_;
    std::vector<span_t> spans_;
};

}  // namespace mox::inline MOX_ABI
