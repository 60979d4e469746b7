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

namespace detail {

inline void check_adamw(std::string_view call, const adamw_options& options) {
    check::that(options.rate >= 0 && options.decay >= 0 && options.epsilon > 0, call,
                "options 'rate' and 'decay' must not be negative and 'epsilon' must be positive");
    check::that(options.beta1 >= 0 && options.beta1 < 1 && options.beta2 >= 0 && options.beta2 < 1, call,
                "options 'beta1' and 'beta2' must lie in [0, 1)");
}

/// Neighbouring tensors of one block with the same decay, joined. Tensors are padded to 64 bytes, so full
/// registers fit.
struct adamw_span {
    static constexpr std::size_t no_block = static_cast<std::size_t>(-1);

    index_t begin = 0, size = 0;
    index_t moments = 0;  ///< where its moments lie
    std::size_t block = no_block;
    bool decays = true;
};

/// The blocks of a network and how many steps have trained each.
class block_steps {
public:
    template <class Net, class T>
    static block_steps of() {
        block_steps s;
        for_each_block<Net, T>([&](index_t begin, index_t end) { s.blocks_.push_back({begin, end}); });
        s.steps_.assign(s.blocks_.size(), 0);
        return s;
    }

    /// The block that holds the number at `offset` of params::flat().
    std::size_t find(index_t offset) const {
        for (std::size_t b = 0; b < blocks_.size(); ++b) {
            if (offset >= blocks_[b].begin && offset < blocks_[b].end) return b;
        }
        return adamw_span::no_block;
    }

    /// ranges: whether each is trained; none given means all are.
    void count(std::span<const block_range> ranges) {
        ++all_;
        for (std::size_t b = 0; b < steps_.size(); ++b) {
            if (trains(ranges, b)) ++steps_[b];
        }
    }
    static bool trains(std::span<const block_range> ranges, std::size_t block) {
        return block == adamw_span::no_block || ranges.empty() || ranges[block].trains;
    }

    index_t all() const noexcept { return all_; }
    index_t of_block(std::size_t block) const { return block == adamw_span::no_block ? all_ : steps_[block]; }
    index_t checked(std::string_view call, index_t block) const {
        check::that(block >= 0 && block < static_cast<index_t>(steps_.size()), call,
                    "argument 'block' must name a block of the network, the repetitions of mox::repeat");
        return steps_[static_cast<std::size_t>(block)];
    }

private:
    std::vector<block_range> blocks_;
    std::vector<index_t> steps_;
    index_t all_ = 0;
};

/// Appends a tensor to the spans, to the last one where it fits.
inline void add_span(std::vector<adamw_span>& spans, const adamw_span& s) {
    if (!spans.empty()) {
        adamw_span& last = spans.back();
        if (last.decays == s.decays && last.block == s.block && last.begin + last.size == s.begin &&
            last.moments + last.size == s.moments) {
            last.size += s.size;
            return;
        }
    }
    spans.push_back(s);
}

/// One step of the spans whose blocks are trained.
template <class T>
void adamw_step(std::span<const adamw_span> spans, const block_steps& blocks,
                std::span<const block_range> ranges, const adamw_options& options, double factor, T* w,
                const T* g, T* m, T* v, executor_ref exec) {
    const double rate = options.rate * factor;
    const T b1 = static_cast<T>(options.beta1), b2 = static_cast<T>(options.beta2);
    const T epsilon = static_cast<T>(options.epsilon);
    index_t counted = 0;  // the steps that scale and root stand for
    T scale = 0, root = 0;
    for (const adamw_span& s : spans) {
        if (!block_steps::trains(ranges, s.block)) continue;
        const index_t steps = blocks.of_block(s.block);
        if (steps != counted) {
            const double c1 = 1.0 - std::pow(options.beta1, static_cast<double>(steps));
            const double c2 = 1.0 - std::pow(options.beta2, static_cast<double>(steps));
            scale = static_cast<T>(rate / c1);
            root = static_cast<T>(1.0 / std::sqrt(c2));
            counted = steps;
        }
        const T shrink = s.decays ? static_cast<T>(1.0 - rate * options.decay) : T(1);
        T* const ws = w + s.begin;
        const T* const gs = g + s.begin;
        T* const ms = m + s.moments;
        T* const vs = v + s.moments;
        parallel_ranges(
            exec, s.size, flat_block,
            [&](index_t begin, index_t end) {
                using vec = simd::batch<T>;
                const vec vb1(b1), vb2(b2), vc1(T(1) - b1), vc2(T(1) - b2), vscale(scale), vroot(root),
                    veps(epsilon), vshrink(shrink);
                for (index_t i = begin; i < end; i += simd::lanes<T>) {
                    const vec gi = simd::load(gs + i);
                    const vec mi = simd::fma(vb1, simd::load(ms + i), vc1 * gi);
                    const vec vi = simd::fma(vb2, simd::load(vs + i), vc2 * gi * gi);
                    simd::store(ms + i, mi);
                    simd::store(vs + i, vi);
                    const vec update = vscale * mi / simd::fma(simd::sqrt(vi), vroot, veps);
                    simd::store(ws + i, vshrink * simd::load(ws + i) - update);
                }
            },
            16);
    }
}

}  // namespace detail

/// AdamW (Decoupled Weight Decay Regularization, arXiv 1711.05101): moments with bias correction,
/// w -= rate * (m / (sqrt(v) + epsilon) + decay * w). Works on the panels as they lie in memory. What is not
/// trained has no moments and stays as it is.
template <class Net, class T = float>
class adamw {
public:
    adamw() : adamw(adamw_options{}) {}
    explicit adamw(const adamw_options& options)
        : options_(options), steps_(detail::block_steps::of<Net, T>()) {
        detail::check_adamw("mox::adamw", options);
        for (const tensor_info& t : params<Net, T>::tensors()) {
            if (t.spec.trained) {
                detail::add_span(spans_, {t.offset, tensor_elements<T>(t.spec), t.offset,
                                          steps_.find(t.offset), t.spec.decays});
            }
        }
    }

    adamw_options& options() noexcept { return options_; }
    const adamw_options& options() const noexcept { return options_; }
    index_t steps() const noexcept { return steps_.all(); }
    /// How many of them trained this block (model/trainable_mask.hpp).
    index_t steps(index_t block) const { return steps_.checked("mox::adamw::steps", block); }

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
    // blocks: whether each is trained; none given means all are.
    void update(params<Net, T>& weights, const params<Net, T>& grads, std::span<const block_range> blocks,
                double factor, executor_ref exec) {
        steps_.count(blocks);
        detail::adamw_step<T>(spans_, steps_, blocks, options_, factor, weights.flat().data(),
                              grads.flat().data(), m_.flat().data(), v_.flat().data(), exec);
    }

    adamw_options options_;
    detail::block_steps steps_;
    params<Net, T> m_, v_;
    std::vector<detail::adamw_span> spans_;
};

}  // namespace mox::inline MOX_ABI
