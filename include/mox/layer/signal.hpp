#pragma once

// Signals: typed side outputs that a later layer reads, one row per token of the batch. Producer and reader
// are matched at compile time (compose/signals.hpp); what nobody reads is not computed.

#include <array>

#include <mox/core/error.hpp>
#include <mox/core/leaves.hpp>
#include <mox/core/view.hpp>

namespace mox::inline MOX_ABI {

namespace signal {

/// The attention each token received in the last attention layer that saw it: the mean of its column of the
/// attention map over heads and all queries of the sequence (A-MoD, arXiv 2412.20875), and in a second column
/// the mean over heads and those queries that may see it.
struct attention_received {
    static constexpr index_t width = 2;
    static constexpr const char* name = "attention_received";
};

}  // namespace signal

/// The signals of one step. Slots exist for those that some layer reads.
template <class T>
class signal_board {
public:
    /// The rows of signal S, or an empty view when nobody reads it.
    template <class S>
    matrix_view<T> find() const noexcept {
        for (index_t i = 0; i < count_; ++i) {
            const slot& s = slots_[static_cast<std::size_t>(i)];
            if (s.id == type_id<S>()) return s.rows;
        }
        return {};
    }

    void clear() noexcept { count_ = 0; }

    template <class S>
    void add(matrix_view<T> rows) {
        check::that(count_ < capacity, "mox::forward", "a network may read at most 8 kinds of signals");
        slots_[static_cast<std::size_t>(count_++)] = {type_id<S>(), rows};
    }

private:
    static constexpr index_t capacity = 8;
    struct slot {
        const void* id = nullptr;
        matrix_view<T> rows;
    };
    std::array<slot, capacity> slots_{};
    index_t count_ = 0;
};

}  // namespace mox::inline MOX_ABI
