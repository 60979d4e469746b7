#pragma once

// What forward leaves for backward, plus scratch memory, auxiliary losses and routing statistics. Reused from
// step to step: memory grows during the first steps of the largest batch and never again.

#include <algorithm>
#include <memory>
#include <vector>

#include <mox/compose/signals.hpp>

namespace mox::inline MOX_ABI {

/// Tokens per expert and slots lost, summed over all layers of one type in the last step.
struct routing_stats {
    std::vector<index_t> tokens_per_expert;  ///< true experts, then null experts
    index_t tokens = 0;                      ///< rows that reached these layers
    index_t slots = 0;                       ///< choices made
    index_t dropped = 0;                     ///< choices lost to capacity
    index_t nulls = 0;                       ///< choices of null experts
    index_t processed = 0;                   ///< depth: rows that went through the block
};

template <class Net, class T = float>
class tape {
public:
    using network = Net;
    using scalar = T;

    tape() : memory_(std::make_unique<memory>()) {}
    /// Threads come from the host program; the executor must outlive the tape's use.
    explicit tape(executor_ref exec) : tape() { exec_ = exec; }
    template <executor E>
    explicit tape(E& exec) : tape(executor_ref(exec)) {}

    void use(executor_ref exec) noexcept { exec_ = exec; }
    executor_ref exec() const noexcept { return exec_; }

    /// The auxiliary losses of the last training forward, scaled by aux_scale.
    T aux_loss() const noexcept { return aux_loss_; }
    /// A factor on all auxiliary losses from the next step on, for schedules.
    void set_aux_scale(T scale) noexcept { aux_scale_ = scale; }

    /// Random routing draws from this seed and the number of the training step, which every training forward
    /// advances; set_step repeats a draw.
    void set_seed(std::uint64_t seed) noexcept { seed_ = seed; }
    void set_step(std::uint64_t step) noexcept { next_step_ = step; }
    /// How far training has come, 0 to 1, for capacities that change (keep_annealed).
    void set_progress(double progress) noexcept { progress_ = progress; }

    /// Shows `o` (and nobody else) the inputs of all layers under mox::observed, from the next forward on: it
    /// is called with an observation<T> by each of them, in training and evaluation, in the thread that runs
    /// the network. If it has a `backward(observation<T>, matrix_view<T> dx)`, that may add to the gradients
    /// of the inputs; it is not called where backward needs none (in front of everything that is trained). It
    /// must stay alive until backward of the last step that it saw, or until stop_observing. Decoding
    /// (mox::stream) shows nothing.
    template <class O>
    void observe(O& o) noexcept {
        static_assert(
            observed_count<Net>() > 0,
            "mox::tape::observe: the network shows nothing; wrap what is to be seen in mox::observed");
        constexpr bool fits = std::is_object_v<O> && std::is_invocable_v<O&, const observation<T>&>;
        static_assert(fits,
                      "mox::tape::observe: the observer must be an object, such as a lambda, that can be "
                      "called with a mox::observation of the tape's scalar type");
        if constexpr (fits) observer_ = observer_ref<T>(o);
    }
    void stop_observing() noexcept { observer_ = step_observer_ = {}; }

    /// Where the caller puts the gradient of the output before mox::backward; the shape of the last output.
    matrix_view<T> output_grad() const noexcept { return output_grad_; }
    /// The last output.
    matrix_view<const T> output() const noexcept { return output_; }

    /// One record for each routed layer of the last step, in forward order.
    std::span<const routing_record> routing() const noexcept { return memory_->routing; }

    /// Whether the last step was a training forward.
    bool trained() const noexcept { return last_ == phase::train; }

    /// Statistics of all layers of type `Layer`.
    template <class Layer>
    routing_stats stats() const {
        routing_stats s;
        for (const routing_record& r : memory_->routing) {
            if (r.layer != type_id<Layer>()) continue;
            s.tokens += r.rows;
            s.processed += r.selected_count;
            s.dropped += r.dropped;
            s.slots += r.rows * r.slots;
            s.tokens_per_expert.resize(static_cast<std::size_t>(r.experts + r.nulls));
            for (index_t e = 0; e < r.experts + r.nulls; ++e) {
                s.tokens_per_expert[static_cast<std::size_t>(e)] += r.counts[e];
                if (e >= r.experts) s.nulls += r.counts[e];
            }
        }
        return s;
    }

    /// Bytes held by the tape.
    std::size_t bytes() const noexcept {
        return memory_->saved.capacity() + memory_->scratch.capacity() + memory_->kept.capacity();
    }

    /// Used by run.hpp: a context for a new step over `rows`.
    context<T> begin(const sequence_view& rows, phase mode, bool saving) {
        memory& m = *memory_;
        m.saved.reset();
        m.scratch.reset();
        m.kept.reset();
        m.records.clear();
        m.routing.clear();
        m.signals.clear();
        output_grad_ = {};
        last_ = mode;
        step_observer_ = observer_;
        step_seed_ = seed_;
        step_aux_scale_ = aux_scale_;
        rows_ = own(rows);
        step_ = mode == phase::train ? next_step_++ : 0;
        context<T> ctx = base(rows_, mode);
        ctx.records = saving ? &m.records : nullptr;
        add_signals(m.signals, signals_read<Net>{});
        return ctx;
    }

    /// Used by run.hpp: the context of backward after a training forward.
    context<T> resume() {
        context<T> ctx = base(rows_, phase::train);
        ctx.records = &memory_->records;
        memory_->signal_gradients.clear();
        add_signals(memory_->signal_gradients, signals_taught<Net>{});
        return ctx;
    }

    /// Used by run.hpp: remembers the results of a forward pass.
    matrix_view<T> finish(const context<T>& ctx, matrix_view<T> output, bool saving) {
        output_ = output;
        aux_loss_ = ctx.aux_loss;
        if (saving) {
            output_grad_ = {memory_->saved.template take<T>(output.rows * output.stride), output.rows,
                            output.cols, output.stride};
        }
        return output;
    }

    /// Used by run.hpp: the batch of a call without one.
    batch& whole() noexcept { return memory_->whole; }

private:
    // On the heap, so that contexts and views survive moving the tape.
    struct memory {
        arena saved, scratch, kept;
        record_stack records;
        std::vector<routing_record> routing;
        signal_board<T> signals, signal_gradients;
        rotary_cache<T> rotary;
        batch whole;
    };

    context<T> base(const sequence_view& rows, phase mode) {
        memory& m = *memory_;
        context<T> ctx;
        ctx.exec = exec_;
        ctx.saved = &m.saved;
        ctx.scratch = &m.scratch;
        ctx.kept = &m.kept;
        ctx.routing = &m.routing;
        ctx.signals = &m.signals;
        ctx.signal_gradients = &m.signal_gradients;
        ctx.rotary = &m.rotary;
        ctx.observer = step_observer_;
        ctx.rows = rows;
        ctx.mode = mode;
        ctx.seed = step_seed_;
        ctx.step = step_;
        ctx.progress = progress_;
        ctx.aux_scale = step_aux_scale_;
        return ctx;
    }

    // A copy on the tape: a batch given as a temporary may be gone when backward comes.
    sequence_view own(const sequence_view& rows) {
        row_t* offsets = memory_->kept.template take<row_t>(rows.sequences + 1);
        row_t* positions = memory_->kept.template take<row_t>(rows.rows());
        std::copy_n(rows.offsets, rows.sequences + 1, offsets);
        std::copy_n(rows.positions, rows.rows(), positions);
        row_t* labels = nullptr;
        if (rows.labels) {
            labels = memory_->kept.template take<row_t>(rows.sequences);
            std::copy_n(rows.labels, rows.sequences, labels);
        }
        matrix_view<const std::uint8_t> allowed;
        if (rows.allowed.data) {
            const index_t size = rows.sequences * rows.allowed.cols;
            std::uint8_t* flags = memory_->kept.template take<std::uint8_t>(size);
            std::copy_n(rows.allowed.data, size, flags);
            allowed = {flags, rows.sequences, rows.allowed.cols};
        }
        return {offsets, rows.sequences, positions, nullptr, labels, allowed};
    }

    template <class... Ss>
    void add_signals([[maybe_unused]] signal_board<T>& board, leaves<Ss...>) {
        (board.template add<Ss>(zeros(rows_.rows(), Ss::width)), ...);
    }
    matrix_view<T> zeros(index_t rows, index_t width) {
        T* p = memory_->kept.template take<T>(rows * width);
        std::fill_n(p, rows * width, T(0));
        return {p, rows, width};
    }

    std::unique_ptr<memory> memory_;
    executor_ref exec_;
    observer_ref<T> observer_;
    sequence_view rows_;
    matrix_view<T> output_, output_grad_;
    T aux_loss_ = 0;
    T aux_scale_ = 1;
    phase last_ = phase::evaluate;
    std::uint64_t seed_ = 0, step_ = 0, next_step_ = 0;
    // What the step that runs began with; backward goes by it.
    observer_ref<T> step_observer_;
    std::uint64_t step_seed_ = 0;
    T step_aux_scale_ = 1;
    double progress_ = 1;
};

}  // namespace mox::inline MOX_ABI
