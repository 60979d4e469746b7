#pragma once

#include <algorithm>
#include <vector>

#include <mox/layer/observer.hpp>
#include <mox/train/preservation.hpp>

namespace mox::inline MOX_ABI {

/// weight times the mean over the layers under mox::observed of the mean squared error between what reaches
/// them in a network and in its teacher (the hidden states of Expert Merging, arXiv 2509.25712):
///
///     mox::hidden_loss<float> hidden(0.1);
///     teacher_tape.observe(hidden), tape.observe(hidden);
///     hidden.teach(), mox::infer<net>(teacher, ids, teacher_tape);      // remembers the teacher's states
///     hidden.learn(), mox::forward<net>(weights, ids, tape);
///     loss += hidden.value();
///     mox::backward<net>(weights, tape, grads);                         // with the gradient of the value
///
/// Both networks observe the same layers of the same widths and get the same rows. The teacher is constant.
template <class T>
class hidden_loss {
public:
    explicit hidden_loss(double weight = 1) : weight_(weight) {
        check::that(weight >= 0, "mox::hidden_loss", "argument 'weight' must not be negative");
    }

    /// What comes is the teacher's.
    void teach() noexcept {
        teaches_ = true;
        layers_ = 0;
    }
    /// What comes is to be like the teacher's.
    void learn() noexcept {
        teaches_ = false;
        sum_ = 0;
    }

    /// The loss of the last pass that learned.
    T value() const noexcept {
        return layers_ == 0 ? T(0) : static_cast<T>(weight_ * sum_ / static_cast<double>(layers_));
    }

    /// Called by the network.
    void operator()(const observation<T>& seen) {
        if (teaches_) {
            remember(seen);
        } else {
            sum_ += static_cast<double>(mean_squared_error<T>(seen.x, target(seen)));
        }
    }
    void backward(const observation<T>& seen, matrix_view<T> dx) {
        if (teaches_ || layers_ == 0) return;
        const matrix_view<const T> h = target(seen);
        const double count = static_cast<double>(h.rows * h.cols);
        const auto scale = static_cast<T>(2 * weight_ / (count * static_cast<double>(layers_)));
        for (index_t t = 0; t < h.rows; ++t) {
            for (index_t j = 0; j < h.cols; ++j) dx(t, j) += scale * (seen.x(t, j) - h(t, j));
        }
    }

private:
    struct state {
        std::vector<T> values;
        index_t rows = 0, cols = 0;
    };

    void remember(const observation<T>& seen) {
        const auto i = static_cast<std::size_t>(seen.index);
        if (states_.size() <= i) states_.resize(i + 1);
        layers_ = seen.index + 1;
        state& s = states_[i];
        s.rows = seen.x.rows;
        s.cols = seen.x.cols;
        s.values.resize(static_cast<std::size_t>(s.rows * s.cols));
        for (index_t t = 0; t < s.rows; ++t) std::copy_n(seen.x.row(t), s.cols, s.values.data() + t * s.cols);
    }

    matrix_view<const T> target(const observation<T>& seen) const {
        check::that(seen.index < layers_, "mox::hidden_loss",
                    "the teacher has shown fewer layers; run it after teach() with the same observed layers");
        const state& s = states_[static_cast<std::size_t>(seen.index)];
        return {s.values.data(), s.rows, s.cols};
    }

    double weight_, sum_ = 0;
    bool teaches_ = true;
    index_t layers_ = 0;
    std::vector<state> states_;
};

}  // namespace mox::inline MOX_ABI
