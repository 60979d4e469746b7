#pragma once

#include <functional>
#include <string>

#include <mox/model/params.hpp>
#include <mox/transform/expert_merging.hpp>
#include <mox/transform/merge.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

// Whether L or a layer inside it is an adapter, of one map or token by token.
template <class L>
consteval bool has_adapters() {
    bool found = adapter_of<L>::found;
    if constexpr (requires { L::body::rank; }) found = true;
    if constexpr (requires { L::body::update_rank; }) found = true;
    if constexpr (requires { L::update_rank; }) found = true;
    if constexpr (requires { L::chooses_update; }) found = true;
    for_each_index<children_of<L>::size>(
        [&](auto i) { found = found || has_adapters<typename children_of<L>::template at<i>>(); });
    return found;
}

}  // namespace detail

struct expert_merger_options {
    double start = 0.1;  ///< of every coefficient, between 0 and 1
    /// Coefficients per expert and matrix: its values in the order [count, outputs, inputs] of checkpoints,
    /// cut into so many pieces of one size. 2 for a fused gate and up, 3 for queries, keys and values of one
    /// width, the number of experts for their stack give each a coefficient of its own. 0 keeps it at its
    /// start.
    index_t chunks = 1;
    /// Chunks matrix by matrix instead, as for the importance of layers in Expert Merging++.
    std::function<index_t(const tensor_info&)> chunks_of{};
    /// Matrices that stay as they are in the base, such as the head, by name.
    std::vector<std::string> fixed{};
};

/// Several networks that were trained from one base become one. A matrix is W + sum_k lambda_k (W_k - W),
/// with coefficients lambda learned from unlabelled inputs of the experts (Expert Merging, arXiv 2509.25712);
/// embeddings, gains, biases and what is not trained are the base's. Networks with adapters do not compile:
/// their factors are not merged one by one.
///
///     mox::expert_merger<net> merger(base, {&code, &law}, {.fixed = {"2.weight"}});
///     mox::adamw_values<float> adam{{.rate = 1e-4, .decay = 1e-5}};
///     for (each step, expert k in turn) {
///         merger.merge(student);
///         auto goal = mox::infer<net>(*experts[k], x, teacher_tape);
///         mox::distill<float>(mox::forward<net>(student, x, tape), goal, 2.0, tape.output_grad());
///         mox::backward<net>(student, tape, grads);
///         merger.backward(grads);
///         merger.penalty(0.1);
///         adam.step(merger.raw(), merger.gradient());
///     }
///
/// Made for some hundred steps before a network is used: a step passes over all weights and allocates.
template <class Net, class T = float>
class expert_merger {
    static_assert(
        !detail::has_adapters<Net>(),
        "mox::expert_merger: the network has adapters, whose factors are not merged one by one; put "
        "them into their maps first (mox::merge)");

public:
    using expert_list = std::vector<const params<Net, T>*>;

    /// Keeps the base and the differences; the networks are not needed afterwards. Throws mox::error without
    /// experts, for a start outside (0, 1), for a name in `fixed` that no matrix has, and when frozen tensors
    /// differ.
    expert_merger(const params<Net, T>& base, const expert_list& experts,
                  const expert_merger_options& options = {})
        : base_(base), experts_(ssize_of(std::span(experts))), start_(options.start) {
        constexpr std::string_view call = "mox::expert_merger";
        check::that(experts_ > 0 && std::find(experts.begin(), experts.end(), nullptr) == experts.end(), call,
                    "argument 'experts' must hold at least one network, and no null pointer");
        check::that(start_ > 0 && start_ < 1, call, "option 'start' must lie in (0, 1)");
        check::that(base.complete(), call,
                    "argument 'base' must hold the frozen tensors too; gradients are no network");
        std::vector<std::string> unknown = options.fixed;
        for (const tensor_info& t : params<Net, T>::tensors()) {
            for (const params<Net, T>* e : experts) {
                check::that(t.spec.trained || e->read(t) == base.read(t), call,
                            "tensor '" + t.path + "' is frozen and must be the same in all networks");
            }
            if (!is_matrix(t) || std::erase(unknown, t.path) > 0) continue;
            const index_t chunks = options.chunks_of ? options.chunks_of(t) : options.chunks;
            check::that(chunks >= 0, call, "option 'chunks' must not be negative");
            part p{t, chunks, all_chunks_ * experts_, checkpoint_order(t, base.read(t)), {}};
            for (const params<Net, T>* e : experts) {
                const std::vector<T> values = checkpoint_order(t, e->read(t));
                for (std::size_t i = 0; i < values.size(); ++i) p.tasks.push_back(values[i] - p.base[i]);
            }
            all_chunks_ += chunks;
            parts_.push_back(std::move(p));
        }
        check::that(unknown.empty(), call,
                    "option 'fixed' must name matrices that would be merged, but '" +
                        (unknown.empty() ? std::string() : unknown.front()) + "' is none");
        raw_.assign(static_cast<std::size_t>(experts_ * all_chunks_),
                    merge_coefficients_view<T>::raw_of(start_));
        gradient_.assign(raw_.size(), T(0));
    }

    index_t experts() const noexcept { return experts_; }
    /// What is trained: tensor by tensor, experts x chunks.
    std::span<T> raw() noexcept { return raw_; }
    std::span<const T> raw() const noexcept { return raw_; }
    /// Its gradient.
    std::span<const T> gradient() const noexcept { return gradient_; }

    /// lambda of an expert in a tensor. Throws mox::error when the tensor is not merged.
    T coefficient(std::string_view tensor, index_t expert, index_t chunk = 0) const {
        for (const part& p : parts_) {
            if (p.tensor.path != tensor) continue;
            check::that(expert >= 0 && expert < experts_ && chunk >= 0 &&
                            chunk < std::max<index_t>(p.chunks, 1),
                        "mox::expert_merger::coefficient",
                        "arguments 'expert' and 'chunk' must be below the numbers of experts and chunks");
            return view(p).value(expert, chunk);
        }
        check::fail("mox::expert_merger::coefficient",
                    "tensor '" + std::string(tensor) + "' is not merged, or there is none of this name");
    }

    /// `to` becomes the merged network.
    void merge(params<Net, T>& to) const {
        to = base_;
        std::vector<T> merged;
        for (const part& p : parts_) {
            merged.resize(p.base.size());
            view(p).merge(p.base, p.tasks, merged);
            to.write(p.tensor, layer_order(p.tensor, merged));
        }
    }

    /// The gradient of the coefficients, given that of the merged network. Overwrites gradient().
    void backward(const params<Net, T>& dmerged) {
        for (const part& p : parts_)
            view(p).gradient(checkpoint_order(p.tensor, dmerged.read(p.tensor)), p.tasks, gradient_of(p));
    }

    /// weight times the mean over tensors' chunks of sum_k |lambda_k - start|, which keeps the coefficients
    /// near their start. Adds to gradient(), after backward.
    T penalty(double weight) {
        T sum = 0;
        for (const part& p : parts_) {
            const T share = static_cast<T>(weight * static_cast<double>(p.chunks) /
                                           static_cast<double>(std::max<index_t>(all_chunks_, 1)));
            sum += share * view(p).penalty();
            view(p).penalty_gradient(share, gradient_of(p));
        }
        return sum;
    }

private:
    struct part {
        tensor_info tensor;
        index_t chunks, first;  // of raw
        std::vector<T> base, tasks;
    };

    // Gains are vectors; tables, biases and magnitudes of several experts are rows.
    static bool is_matrix(const tensor_info& t) {
        return t.spec.trained && t.spec.form != storage::vector && t.spec.form != storage::rows;
    }

    merge_coefficients_view<T> view(const part& p) const {
        return {experts_, p.chunks, start_, std::span<const T>(raw_.data() + p.first, size_of(p))};
    }
    std::span<T> gradient_of(const part& p) { return {gradient_.data() + p.first, size_of(p)}; }
    std::size_t size_of(const part& p) const { return static_cast<std::size_t>(experts_ * p.chunks); }

    // [count, inputs, outputs] as [count, outputs, inputs], and back.
    static std::vector<T> checkpoint_order(const tensor_info& t, const std::vector<T>& v) {
        return transposed(v, t.spec.count, t.spec.rows, t.spec.logical_cols());
    }
    static std::vector<T> layer_order(const tensor_info& t, const std::vector<T>& v) {
        return transposed(v, t.spec.count, t.spec.logical_cols(), t.spec.rows);
    }
    static std::vector<T> transposed(const std::vector<T>& v, index_t count, index_t rows, index_t cols) {
        std::vector<T> to(v.size());
        for (index_t m = 0; m < count; ++m) {
            const T* const from = v.data() + m * rows * cols;
            T* at = to.data() + m * rows * cols;
            for (index_t j = 0; j < cols; ++j) {
                for (index_t i = 0; i < rows; ++i) *at++ = from[i * cols + j];
            }
        }
        return to;
    }

    params<Net, T> base_;
    index_t experts_;
    double start_;
    index_t all_chunks_ = 0;
    std::vector<part> parts_;
    std::vector<T> raw_, gradient_;
};

}  // namespace mox::inline MOX_ABI
