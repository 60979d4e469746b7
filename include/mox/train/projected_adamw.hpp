#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <mox/model/trainable_mask.hpp>
#include <mox/train/galore.hpp>

namespace mox::inline MOX_ABI {

/// AdamW of a network whose blocks (model/trainable_mask.hpp) are trained by gradients of low rank: what
/// OwLore (arXiv 2405.18380) does to the blocks that it draws, and GaLore (arXiv 2403.03507) to all.
///
///     mox::projected_adamw<net> adam({.rank = 256}, {.rate = 1e-4});
///     auto draw = mox::schedule::owlore(mask.blocks, probabilities, {.active = 5, .interval = 50}, seed);
///     mask.only(draw(step));                             // mox::trainable_mask<net> mask;
///     mox::backward<net>(weights, tape, grads, mask);
///     adam.step(weights, grads, mask);
///
/// Every matrix of a block whose shorter side is longer than the rank is projected on its own: each expert's,
/// gate and up apart, and a map that holds several (queries, keys and values) as the one it is. Its moments
/// take rank * (longer side) numbers each where AdamW's take all of the matrix, and its directions are kept
/// beside them. All else, norms, biases, small matrices, and what is in no block, has AdamW's own moments.
/// New directions are looked for every galore_options::interval steps of a block, in a copy in double of one
/// matrix at a time. Its memory is kept: what has been trained before is trained without an allocation.
template <class Net, class T = float>
class projected_adamw {
    static_assert(
        block_count<Net>() > 0,
        "mox::projected_adamw: the network has no blocks whose gradients could be projected: blocks "
        "are the repetitions of mox::repeat, and mox::adamw trains a network without");

public:
    explicit projected_adamw(const galore_options& projection = {}, const adamw_options& options = {})
        : options_(options), steps_(detail::block_steps::of<Net, T>()) {
        detail::check_adamw("mox::projected_adamw", options);
        (void)galore<T>(1, 1, projection);  // refuses bad options, matrices or not
        index_t plain = 0, low = 0, full = 0;
        for (const tensor_info& t : params<Net, T>::tensors()) {
            if (!t.spec.trained) continue;
            const std::size_t block = steps_.find(t.offset);
            const bool matrix = t.spec.form == storage::panels || t.spec.form == storage::gated_panels;
            if (block == detail::adamw_span::no_block || !matrix ||
                std::min(t.spec.rows, t.spec.cols) <= projection.rank) {
                const index_t size = tensor_elements<T>(t.spec);
                detail::add_span(spans_, {t.offset, size, plain, block, t.spec.decays});
                plain += size;
                continue;
            }
            for (index_t m = 0; m < t.spec.count; ++m) {
                for (index_t first = 0; first < t.spec.logical_cols(); first += t.spec.cols) {
                    matrices_.push_back({t.spec, t.offset, m, first, block,
                                         detail::low_moments<T>(t.spec.rows, t.spec.cols, projection)});
                    low = std::max(low, matrices_.back().moments.projection().low_size());
                    full = std::max(full, t.spec.rows * t.spec.cols);
                }
            }
        }
        m_ = buffer<T>(plain);
        v_ = buffer<T>(plain);
        low_ = buffer<T>(low);
        gradient_ = buffer<T>(full);
        update_ = buffer<T>(full);
    }

    adamw_options& options() noexcept { return options_; }
    const adamw_options& options() const noexcept { return options_; }
    index_t steps() const noexcept { return steps_.all(); }
    /// How many of them trained this block.
    index_t steps(index_t block) const { return steps_.checked("mox::projected_adamw::steps", block); }
    /// Number of matrices that are projected.
    index_t projected() const noexcept { return static_cast<index_t>(matrices_.size()); }

    /// All blocks are trained: GaLore. `factor` scales the rate of this step. Throws mox::error when a
    /// gradient that new directions are looked for in is not finite; nothing has changed then.
    void step(params<Net, T>& weights, const params<Net, T>& grads, double factor = 1.0,
              executor_ref exec = {}) {
        update(weights, grads, {}, factor, exec);
    }
    /// The same without the blocks that `mask` does not train: weights, moments, directions and number of
    /// steps of theirs stay as they are.
    void step(params<Net, T>& weights, const params<Net, T>& grads, const trainable_mask<Net, T>& mask,
              double factor = 1.0, executor_ref exec = {}) {
        update(weights, grads, mask.ranges(), factor, exec);
    }

    /// Bytes of the moments.
    std::size_t bytes() const noexcept {
        std::size_t sum = static_cast<std::size_t>(m_.size() + v_.size()) * sizeof(T);
        for (const projected_matrix& p : matrices_) sum += p.moments.bytes();
        return sum;
    }
    /// Bytes of the directions: at most twice rank * (shorter side) numbers per matrix.
    std::size_t direction_bytes() const noexcept {
        std::size_t sum = 0;
        for (const projected_matrix& p : matrices_) sum += p.moments.projection().bytes();
        return sum;
    }

private:
    // Columns [first, first + spec.cols) of matrix m of a tensor.
    struct projected_matrix {
        parameter spec;
        index_t offset, m, first;
        std::size_t block;
        detail::low_moments<T> moments;

        // body(place in params::flat(), place in a row-major matrix), rows in parallel.
        template <class Body>
        void for_each_element(executor_ref exec, Body&& body) const {
            parallel_ranges(exec, spec.rows, 16, [&](index_t begin, index_t end) {
                for (index_t k = begin; k < end; ++k) {
                    for (index_t n = 0; n < spec.cols; ++n)
                        body(offset + element_offset<T>(spec, m, k, first + n), k * spec.cols + n);
                }
            });
        }
    };

    std::span<T> first_of(buffer<T>& b, index_t size) const {
        return {b.data(), static_cast<std::size_t>(size)};
    }
    std::span<const T> gradient_of(const projected_matrix& p, const T* grads, executor_ref exec) {
        p.for_each_element(exec, [&](index_t from, index_t to) { gradient_[to] = grads[from]; });
        return first_of(gradient_, p.spec.rows * p.spec.cols);
    }

    void update(params<Net, T>& weights, const params<Net, T>& grads, std::span<const block_range> blocks,
                double factor, executor_ref exec) {
        const T* const g = grads.flat().data();
        T* const w = weights.flat().data();
        // Whatever can fail comes first.
        for (projected_matrix& p : matrices_) {
            if (detail::block_steps::trains(blocks, p.block) && p.moments.projection().looks())
                p.moments.projection().look(gradient_of(p, g, exec), search_);
        }
        steps_.count(blocks);
        detail::adamw_step<T>(spans_, steps_, blocks, options_, factor, w, g, m_.data(), v_.data(), exec);
        const double rate = options_.rate * factor;
        for (projected_matrix& p : matrices_) {
            if (!detail::block_steps::trains(blocks, p.block)) continue;
            const std::span<T> update = first_of(update_, p.spec.rows * p.spec.cols);
            p.moments.step(gradient_of(p, g, exec), options_,
                           first_of(low_, p.moments.projection().low_size()), update, exec);
            const T shrink = p.spec.decays ? static_cast<T>(1.0 - rate * options_.decay) : T(1);
            p.for_each_element(exec, [&](index_t to, index_t from) {
                w[to] = shrink * w[to] - static_cast<T>(rate) * update_[from];
            });
        }
    }

    adamw_options options_;
    detail::block_steps steps_;
    std::vector<detail::adamw_span> spans_;
    std::vector<projected_matrix> matrices_;
    buffer<T> m_, v_;                    // of what is not projected
    buffer<T> low_, gradient_, update_;  // of one matrix at a time
    direction_search search_;
};

}  // namespace mox::inline MOX_ABI
