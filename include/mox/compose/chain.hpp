#pragma once

// Layers one after the other: the code behind stack, repeat and residual.

#include <algorithm>

#include <mox/layer/contract.hpp>

namespace mox::inline MOX_ABI::detail {

/// One joint between neighbours. The widths are template arguments so that the compiler prints them.
template <index_t OutputOfLayerBefore, index_t InputOfLayerBehind>
consteval bool check_joint() {
    static_assert(
        OutputOfLayerBefore == InputOfLayerBehind,
        "mox::stack: neighbouring layers do not fit, the output width of one differs from the input "
        "width of the next");
    return true;
}

template <class... Ls>
consteval bool check_chain() {
    static_assert(sizeof...(Ls) > 0, "mox::stack: at least one layer is needed");
    static_assert(sizeof...(Ls) <= 128,
                  "mox::stack: at most 128 layers in one list; use mox::repeat or nested stacks");
    ((void)check_layer<Ls>(), ...);
    if constexpr (sizeof...(Ls) > 1 && sizeof...(Ls) <= 128) {
        using list = leaves<Ls...>;
        for_each_index<sizeof...(Ls) - 1>(
            [](auto i) { (void)check_joint<list::template at<i>::out, list::template at<i + 1>::in>(); });
    }
    return true;
}

/// Runs the children of L, repetitions included.
template <class L>
struct chain {
    using kids = children_of<L>;
    static constexpr index_t steps = repetitions<L>() * static_cast<index_t>(kids::size);

    static constexpr index_t widest = [] {
        index_t w = 0;
        for_each_index<kids::size>([&](auto i) { w = std::max(w, kids::template at<i>::out); });
        return w;
    }();

    static constexpr double flops(double context) {
        double sum = 0;
        for_each_index<kids::size>([&](auto i) { sum += kids::template at<i>::flops(context); });
        return sum * static_cast<double>(repetitions<L>());
    }

    template <class T, class Input>
    static void forward(context<T>& ctx, param_ref<L, const T> w, Input x, matrix_view<T> y) {
        const beginning first{ctx.saving() ? ctx.records->mark() : 0};
        // Training keeps every activation for backward; otherwise two take turns and the rest is given back.
        const arena_scope_if scope(*ctx.saved, !ctx.saving());
        matrix_view<T> turn[2];
        if (!ctx.saving() && steps > 1) {
            for (auto& t : turn) t = ctx.activation(y.rows, widest);
        }
        matrix_view<const T> current;
        for (index_t r = 0; r < repetitions<L>(); ++r) {
            for_each_index<kids::size>([&](auto i) {
                using kid = typename kids::template at<i>;
                const index_t step = r * static_cast<index_t>(kids::size) + static_cast<index_t>(i);
                matrix_view<T> to = y;
                if (step + 1 < steps) {
                    to = ctx.saving() ? ctx.activation(y.rows, kid::out)
                                      : turn[step % 2].middle_cols(0, kid::out);
                }
                const arena_scope_if inner(*ctx.saved, !ctx.saving());
                if constexpr (i == 0) {
                    if (step == 0) {
                        kid::template forward<T>(ctx, w.template child<i>(r), x, to);
                    } else if constexpr (std::is_same_v<Input, matrix_view<const T>>) {
                        kid::template forward<T>(ctx, w.template child<i>(r), current, to);
                    }
                } else {
                    kid::template forward<T>(ctx, w.template child<i>(r), current, to);
                }
                current = to;
            });
        }
        if constexpr (untrained > 0) ctx.save(first);
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<L, const T> w, param_ref<L, T> g, matrix_view<const T> dy,
                         matrix_view<T> dx) {
        [[maybe_unused]] beginning first{};
        if constexpr (untrained > 0) first = ctx.template restore<beginning>();
        const arena_scope scope(*ctx.scratch);
        const bool wanted = ctx.input_gradient;
        matrix_view<T> turn[2];
        if (steps > 1) {
            for (auto& t : turn) t = ctx.temporary(dy.rows, widest);
        }
        matrix_view<const T> current = dy;
        for (index_t r = repetitions<L>(); r-- > 0;) {
            for_each_index_reversed<kids::size>([&](auto i) {
                using kid = typename kids::template at<i>;
                const index_t step = r * static_cast<index_t>(kids::size) + static_cast<index_t>(i);
                if (!wanted && step < static_cast<index_t>(untrained)) return;
                ctx.input_gradient = wanted || step > static_cast<index_t>(untrained);
                matrix_view<T> to = dx;
                if (step > 0) to = turn[step % 2].middle_cols(0, kid::in);
                param_ref<kid, T> gradients = g.template child<i>(r);
                if constexpr (requires { L::makes_blocks; }) {
                    if (ctx.blocks.skip(gradients.trained)) gradients = {};
                }
                kid::template backward<T>(ctx, w.template child<i>(r), gradients, current, to);
                current = to;
            });
        }
        ctx.input_gradient = wanted;
        if (untrained > 0 && !wanted) ctx.records->rewind(first.mark);
    }

private:
    // Where the records of the first step lie, when that and perhaps further steps have nothing to train.
    struct beginning {
        std::size_t mark;
    };

    // The first steps without parameters that anybody could train (layers under mox::frozen): when nobody
    // wants the gradient of the chain's input either, their backward is left out.
    static constexpr std::size_t untrained = [] {
        std::size_t n = 0;
        bool all = repetitions<L>() == 1;
        for_each_index<kids::size>([&](auto i) {
            constexpr extent e = parameter_extent<typename kids::template at<i>, float>();
            all = all && e.trained == 0 && e.frozen > 0;
            n += all ? 1 : 0;
        });
        return n;
    }();

    // Gives the memory back at the end of a scope, on condition.
    class arena_scope_if {
    public:
        arena_scope_if(arena& a, bool active) noexcept : arena_(a), mark_(a.mark()), active_(active) {}
        ~arena_scope_if() {
            if (active_) arena_.rewind(mark_);
        }
        arena_scope_if(const arena_scope_if&) = delete;
        arena_scope_if& operator=(const arena_scope_if&) = delete;

    private:
        arena& arena_;
        arena::mark_t mark_;
        bool active_;
    };
};

}  // namespace mox::inline MOX_ABI::detail
