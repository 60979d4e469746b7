#pragma once

// What a layer is given besides its parameters and its rows: threads, memory, the batch, signals, and the
// place where auxiliary losses and routing statistics go. One context per call of forward or backward.

#include <cstring>
#include <span>
#include <vector>

#include <mox/core/buffer.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/rotary.hpp>
#include <mox/layer/blocks.hpp>
#include <mox/layer/observer.hpp>
#include <mox/layer/parameter.hpp>
#include <mox/layer/sequences.hpp>
#include <mox/layer/signal.hpp>

namespace mox::inline MOX_ABI {

/// The records that forward leaves and backward takes in the opposite order. Backward visits the layers
/// exactly backwards, so a stack is all that is needed, whatever the shape of the network.
class record_stack {
public:
    template <class R>
    void push(const R& record) {
        static_assert(std::is_trivially_copyable_v<R>,
                      "mox: a layer's saved record must be trivially copyable");
        const std::size_t at = bytes_.size();
        bytes_.resize(at + sizeof(R) + sizeof(const void*));
        std::memcpy(bytes_.data() + at, &record, sizeof(R));
        const void* id = type_id<R>();
        std::memcpy(bytes_.data() + at + sizeof(R), &id, sizeof(id));
    }

    template <class R>
    R pop() {
        const void* id = nullptr;
        bool matches = bytes_.size() >= sizeof(R) + sizeof(id);
        if (matches) {
            std::memcpy(&id, bytes_.data() + bytes_.size() - sizeof(id), sizeof(id));
            matches = id == type_id<R>();
        }
        if (!matches) {
            check::fail("mox::backward", "the tape does not hold the forward pass of this network; call "
                                         "mox::forward with the same tape first");
        }
        R record;
        const std::size_t at = bytes_.size() - sizeof(id) - sizeof(R);
        std::memcpy(static_cast<void*>(&record), bytes_.data() + at, sizeof(R));
        bytes_.resize(at);
        return record;
    }

    /// Where the next record goes; rewind to it drops the records of layers whose backward nobody needs.
    std::size_t mark() const noexcept { return bytes_.size(); }
    void rewind(std::size_t mark) { bytes_.resize(mark); }

    void clear() noexcept { bytes_.clear(); }
    bool empty() const noexcept { return bytes_.empty(); }

private:
    std::vector<std::byte> bytes_;
};

/// Who computed what in one routed layer during the last step. Views stay valid until the next step.
struct routing_record {
    enum class kind_t { experts, depth };
    kind_t kind = kind_t::experts;
    const void* layer = nullptr;    ///< type_id of the layer
    index_t rows = 0;               ///< tokens that reached the layer
    const row_t* token = nullptr;   ///< their rows in the whole batch; null means all, in order
    index_t experts = 0;            ///< experts: true experts
    index_t nulls = 0;              ///< experts: null experts, numbered behind the true ones
    index_t slots = 0;              ///< experts: choices per token
    const row_t* chosen = nullptr;  ///< experts: [rows x slots]; -1 where a slot was dropped
    const void* gates = nullptr;    ///< experts: [rows x slots] weights; read them with gate()
    bool gates_are_double = false;
    const row_t* counts = nullptr;    ///< experts: tokens per expert before dropping, [experts + nulls]
    index_t dropped = 0;              ///< experts: slots lost to capacity
    const row_t* selected = nullptr;  ///< depth: the rows that went through the block, ascending
    index_t selected_count = 0;

    /// experts: the weight of choice `slot` of row `row`.
    double gate(index_t row, index_t slot) const noexcept {
        const index_t i = row * slots + slot;
        return gates_are_double ? static_cast<const double*>(gates)[i]
                                : static_cast<double>(static_cast<const float*>(gates)[i]);
    }
};

/// Decode state of one layer: rows that grow with the processed tokens (keys and values).
template <class T>
struct layer_state {
    T* data = nullptr;
    index_t width = 0;
    index_t rows = 0;
    index_t capacity = 0;
};

/// Number of layer states that L needs for decoding, children included. A layer with state declares
/// `static constexpr index_t state_width`, the values it keeps per processed token.
template <class L>
constexpr index_t state_count() noexcept {
    index_t n = 0;
    if constexpr (requires { L::state_width; }) n += 1;
    for_each_index<children_of<L>::size>(
        [&](auto i) { n += repetitions<L>() * state_count<typename children_of<L>::template at<i>>(); });
    return n;
}

/// How many numbers the layers in L take from context::next_draw, children included: they declare `static
/// constexpr bool draws = true` and take one each, or say how many in `index_t draw_numbers`.
template <class L>
constexpr index_t draw_count() noexcept {
    index_t n = 0;
    if constexpr (requires { L::draw_numbers; }) {
        n += L::draw_numbers;
    } else if constexpr (requires { L::draws; }) {
        n += L::draws ? 1 : 0;
    }
    for_each_index<children_of<L>::size>(
        [&](auto i) { n += repetitions<L>() * draw_count<typename children_of<L>::template at<i>>(); });
    return n;
}

/// How many layers in L are under mox::observed, repetitions counted.
template <class L>
constexpr index_t observed_count() noexcept {
    index_t n = 0;
    if constexpr (requires { L::is_observed; }) n += 1;
    for_each_index<children_of<L>::size>(
        [&](auto i) { n += repetitions<L>() * observed_count<typename children_of<L>::template at<i>>(); });
    return n;
}

/// Cosines and sines of rotary positions, shared by all layers with the same head size and base.
template <class T>
class rotary_cache {
public:
    /// A table that covers positions [0, positions). Grows by doubling; valid until the next call.
    const T* table(index_t head_dim, double base, index_t positions) {
        for (entry& e : entries_) {
            if (e.head_dim == head_dim && e.base == base) return grow(e, positions);
        }
        entries_.push_back({head_dim, base, 0, {}});
        return grow(entries_.back(), positions);
    }

private:
    struct entry {
        index_t head_dim;
        double base;
        index_t positions;
        buffer<T> values;
    };

    static const T* grow(entry& e, index_t positions) {
        if (positions > e.positions) {
            e.positions = std::max<index_t>({positions, 2 * e.positions, 64});
            e.values = buffer<T>(e.positions * e.head_dim);
            kernel::fill_rotary_table(e.values.data(), 0, e.positions, e.head_dim, e.base);
        }
        return e.values.data();
    }

    std::vector<entry> entries_;
};

/// Training routes with the whole sequence in view; evaluation and decoding use causal rules only.
enum class phase { train, evaluate };

template <class T>
struct context {
    executor_ref exec;
    arena* saved = nullptr;           ///< what backward needs; in evaluation given back by the containers
    arena* scratch = nullptr;         ///< inside a scope
    arena* kept = nullptr;            ///< routing plans and statistics, until the next step
    record_stack* records = nullptr;  ///< null when no backward will follow
    std::vector<routing_record>* routing = nullptr;
    signal_board<T>* signals = nullptr;
    signal_board<T>* signal_gradients = nullptr;  ///< backward: of the signals that some layer teaches
    rotary_cache<T>* rotary = nullptr;
    std::span<layer_state<T>> states;  ///< decoding: one per stateful layer, in forward order
    index_t next_state = 0;
    sequence_view rows;
    phase mode = phase::train;
    std::uint64_t seed = 0;      ///< of random routing
    std::uint64_t step = 0;      ///< training step, counted by the tape; 0 in evaluation
    index_t next_draw = 0;       ///< layers that have drawn so far, so that each has a stream of its own
    observer_ref<T> observer;    ///< who sees the inputs of observed layers
    index_t next_observed = 0;   ///< observed layers that have run so far
    double progress = 1;         ///< of training, 0 to 1, for schedules
    T aux_loss = 0;              ///< auxiliary losses of this step, scaled
    T aux_scale = 1;             ///< factor on all auxiliary losses and their gradients
    bool accumulate = false;     ///< backward adds to the gradients instead of overwriting them
    block_gradients<T> blocks;   ///< backward: those that this step does not train
    bool input_gradient = true;  ///< backward: false when nobody wants the gradient of this layer's input

    bool training() const noexcept { return mode == phase::train; }
    bool saving() const noexcept { return records != nullptr; }
    bool decoding() const noexcept { return !states.empty(); }

    template <class R>
    void save(const R& record) {
        if (records) records->push(record);
    }
    template <class R>
    R restore() {
        return records->template pop<R>();
    }

    /// The next layer state in forward order (decoding only).
    layer_state<T>& take_state() { return states[static_cast<std::size_t>(next_state++)]; }

    /// Memory for activations: kept for backward, or for the scope of the enclosing container.
    matrix_view<T> activation(index_t row_count, index_t cols) {
        const index_t stride = round_up(cols, static_cast<index_t>(alignment / sizeof(T)));
        return {saved->take<T>(row_count * stride), row_count, cols, stride};
    }
    /// Memory inside the caller's arena_scope.
    matrix_view<T> temporary(index_t row_count, index_t cols) {
        const index_t stride = round_up(cols, static_cast<index_t>(alignment / sizeof(T)));
        return {scratch->take<T>(row_count * stride), row_count, cols, stride};
    }
};

}  // namespace mox::inline MOX_ABI
