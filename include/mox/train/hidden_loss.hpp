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
/// Both networks observe the same layers of the same widths and get the same rows, so none inside a
/// mox::depth, whose rows differ. The teacher is constant.
template <class T>
class hidden_loss {
public:
    explicit hidden_loss(double weight = 1) { set_weight(weight); }

    /// From now on; not between a pass and its backward.
    void set_weight(double weight) {
        check::that(weight >= 0, "mox::hidden_loss", "argument 'weight' must not be negative");
        weight_ = weight;
    }

    /// The next pass is the teacher's.
    void teach() noexcept {
        teaches_ = true;
        for (state& s : states_) s.known = false;
        learn_again();
    }
    /// The next pass is to be like the teacher's.
    void learn() noexcept {
        teaches_ = false;
        learn_again();
    }

    /// The loss of the pass that learned. Throws mox::error when it has shown other layers than the
    /// teacher's, or when there was more than one after learn().
    T value() const {
        if (teaches_) return T(0);
        check_layers();
        if (learned_ == 0) return T(0);
        return static_cast<T>(weight_ * sum_ / static_cast<double>(learned_));
    }

    /// Called by the network.
    void operator()(const observation<T>& seen) {
        if (teaches_) {
            remember(seen);
        } else {
            sum_ += static_cast<double>(mean_squared_error<T>(seen.x, target(seen)));
            ++learned_;
        }
    }
    void backward(const observation<T>& seen, matrix_view<T> dx) {
        check::that(!teaches_ && learned_ > 0, "mox::hidden_loss",
                    "backward must follow the pass that learned, before the next call of teach() or learn()");
        check_layers();
        const matrix_view<const T> h = target(seen);
        const auto scale = static_cast<T>(
            2 * weight_ / static_cast<double>(std::max<index_t>(h.rows * h.cols, 1) * learned_));
        for (index_t t = 0; t < h.rows; ++t) {
            for (index_t j = 0; j < h.cols; ++j) dx(t, j) += scale * (seen.x(t, j) - h(t, j));
        }
    }

private:
    struct state {
        std::vector<T> values;
        index_t rows = 0, cols = 0;
        bool known = false;
    };

    void learn_again() noexcept {
        sum_ = 0;
        learned_ = 0;
    }

    void remember(const observation<T>& seen) {
        const auto i = static_cast<std::size_t>(seen.index);
        if (states_.size() <= i) states_.resize(i + 1);
        state& s = states_[i];
        s.rows = seen.x.rows;
        s.cols = seen.x.cols;
        s.known = true;
        s.values.resize(static_cast<std::size_t>(s.rows * s.cols));
        for (index_t t = 0; t < s.rows; ++t) std::copy_n(seen.x.row(t), s.cols, s.values.data() + t * s.cols);
    }

    matrix_view<const T> target(const observation<T>& seen) const {
        const auto i = static_cast<std::size_t>(seen.index);
        check::that(i < states_.size() && states_[i].known, "mox::hidden_loss", differs);
        const state& s = states_[i];
        return {s.values.data(), s.rows, s.cols};
    }

    void check_layers() const {
        const auto known =
            std::count_if(states_.begin(), states_.end(), [](const state& s) { return s.known; });
        check::that(known == learned_, "mox::hidden_loss", differs);
    }

    static constexpr std::string_view differs = "the network and its teacher must show the same layers; call "
                                                "teach() before a pass of the teacher, and "
                                                "learn() before each pass that learns";

    double weight_ = 1, sum_ = 0;
    bool teaches_ = true;
    index_t learned_ = 0;  // layers that the pass has shown
    std::vector<state> states_;
};

}  // namespace mox::inline MOX_ABI
