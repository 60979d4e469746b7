#pragma once

#include <mox/core/error.hpp>
#include <mox/model/params.hpp>
#include <mox/model/tape.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

template <class L, class T>
void visit_selection_bias(param_ref<L, T> w, std::span<const routing_record> records, std::size_t& next,
                          bool moves) {
    const bool mine = next < records.size() && records[next].layer == type_id<L>();
    if (mine) {
        if constexpr (requires { L::update_bias(w, records[next]); }) {
            if (moves) L::update_bias(w, records[next]);
        }
        ++next;
    }
    for (index_t r = 0; r < repetitions<L>(); ++r) {
        for_each_index<children_of<L>::size>([&](auto i) {
            using child = typename children_of<L>::template at<i>;
            visit_selection_bias<child, T>(w.template child<i>(r), records, next, moves && !freezes<L>());
        });
    }
}

}  // namespace detail

/// Moves every selection bias of the network by the choices of the last training forward: experts or ranks
/// that were chosen more often than the mean become less likely, without a loss and without a gradient. Call
/// it once a step. Layers under mox::frozen keep theirs. Throws mox::error when the last step of the tape
/// was no training forward.
template <class Net, class T>
void update_selection_bias(params<Net, T>& weights, const tape<Net, T>& t) {
    check::that(t.trained(), "mox::update_selection_bias",
                "the last step of argument 't' must be a training forward (mox::forward); biases move by the "
                "choices of training alone");
    std::size_t next = 0;
    detail::visit_selection_bias<Net, T>(weights.ref(), t.routing(), next, true);
}

}  // namespace mox::inline MOX_ABI
