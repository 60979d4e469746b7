#pragma once

// Decoding token by token: each stateful layer keeps what it needs of the past (keys and values).

#include <vector>

#include <mox/model/run.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

// Calls visit(state_width) for each stateful layer in forward order.
template <class L, class Visit>
void for_each_state(Visit&& visit) {
    if constexpr (requires { L::state_width; }) visit(static_cast<index_t>(L::state_width));
    for (index_t r = 0; r < repetitions<L>(); ++r) {
        for_each_index<children_of<L>::size>(
            [&](auto i) { for_each_state<typename children_of<L>::template at<i>>(visit); });
    }
}

}  // namespace detail

/// The past of one sequence of at most `max_tokens` tokens. All memory is taken on construction.
template <class Net, class T = float>
class stream {
public:
    explicit stream(index_t max_tokens, executor_ref exec = {}) : tape_(exec), max_tokens_(max_tokens) {
        check::that(max_tokens > 0, "mox::stream", "argument 'max_tokens' must be positive");
        index_t total = 0;
        detail::for_each_state<Net>([&](index_t width) { total += round_up(width * max_tokens, 16); });
        memory_ = buffer<T>(total);
        states_.reserve(static_cast<std::size_t>(state_count<Net>()) + 1);
        T* p = memory_.data();
        detail::for_each_state<Net>([&](index_t width) {
            states_.push_back({p, width, 0, max_tokens});
            p += round_up(width * max_tokens, 16);
        });
        // Never empty: that is how layers know that they decode.
        states_.push_back({});
        rows_before_.resize(states_.size());
        positions_.resize(static_cast<std::size_t>(max_tokens));
    }

    /// Tokens processed so far.
    index_t length() const noexcept { return length_; }
    index_t max_tokens() const noexcept { return max_tokens_; }
    /// Routing of the last call.
    std::span<const routing_record> routing() const noexcept { return tape_.routing(); }
    /// The decode state of stateful layer i, in forward order.
    const layer_state<T>& state(index_t i) const { return states_.at(static_cast<std::size_t>(i)); }

    /// What the host program knows of the sequence, as in batch::with_labels. Stays until it is set again.
    stream& with_label(row_t label) noexcept {
        label_ = label;
        labelled_ = true;
        return *this;
    }

    /// Forgets everything but the label; the memory stays.
    void reset() noexcept {
        length_ = 0;
        for (auto& s : states_) s.rows = 0;
    }

    /// Used by mox::decode. What throws on the way leaves the stream as it was.
    template <class Input>
    matrix_view<const T> extend(const params<Net, T>& weights, const Input& x) {
        const index_t n = detail::check_input<Net>("mox::decode", x);
        check::that(length_ + n <= max_tokens_, "mox::decode",
                    "the stream is full; construct it with a larger 'max_tokens' or reset it");
        detail::check_complete("mox::decode", weights);
        offsets_[1] = static_cast<row_t>(n);
        for (index_t i = 0; i < n; ++i)
            positions_[static_cast<std::size_t>(i)] = static_cast<row_t>(length_ + i);
        const sequence_view rows{offsets_, 1, positions_.data(), nullptr, labelled_ ? &label_ : nullptr};
        context<T> ctx = tape_.begin(rows, phase::evaluate, false);
        ctx.states = states_;
        const matrix_view<T> y = ctx.activation(n, Net::out);
        undo_rows undo(*this);
        Net::template forward<T>(ctx, weights.ref(), x, y);
        undo.wanted = false;
        length_ += n;
        return tape_.finish(ctx, y, false);
    }

private:
    // Takes back what layers in front of one that throws have appended.
    struct undo_rows {
        stream& of;
        bool wanted = true;

        explicit undo_rows(stream& s) : of(s) {
            for (std::size_t i = 0; i < of.states_.size(); ++i) of.rows_before_[i] = of.states_[i].rows;
        }
        undo_rows(const undo_rows&) = delete;
        undo_rows& operator=(const undo_rows&) = delete;
        ~undo_rows() {
            for (std::size_t i = 0; wanted && i < of.states_.size(); ++i)
                of.states_[i].rows = of.rows_before_[i];
        }
    };

    tape<Net, T> tape_;
    index_t max_tokens_ = 0;
    index_t length_ = 0;
    buffer<T> memory_;
    std::vector<layer_state<T>> states_;
    std::vector<index_t> rows_before_;
    std::vector<row_t> positions_;
    row_t offsets_[2] = {0, 0};
    row_t label_ = 0;
    bool labelled_ = false;
};

/// Appends tokens to a stream and returns the network's output for them (rows x Net::out), valid until the
/// next call. The first call may take a whole prompt. Routers use their causal rules.
template <class Net, class T>
matrix_view<const T> decode(const params<Net, T>& weights, std::type_identity_t<input_of<Net, T>> x,
                            stream<Net, T>& s) {
    return s.extend(weights, x);
}

}  // namespace mox::inline MOX_ABI
