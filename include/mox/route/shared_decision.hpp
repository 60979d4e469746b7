#pragma once

#include <array>
#include <string_view>

#include <mox/core/error.hpp>
#include <mox/core/leaves.hpp>
#include <mox/core/parameter.hpp>
#include <mox/exec/executor.hpp>
#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI {

namespace signal {

/// The logits of one decision among E experts, the same row for each token of a sequence. Published by
/// mox::sequence_gate.
template <index_t E>
struct decision {
    static constexpr index_t width = E;
    static constexpr const char* name = "decision";
};

}  // namespace signal

namespace route {

/// No scores of its own: the logits are those that a mox::sequence_gate before this layer published, the
/// same for every layer of the network that reads them (SteloCoder, arXiv 2310.15539). Without parameters;
/// the gradients of all readers add up in the gate.
template <index_t E>
struct shared_decision {
    using policy = scorer_policy;
    using reads = leaves<signal::decision<E>>;
    static constexpr std::string_view name = "decision";

    template <index_t In, index_t Outputs>
    static constexpr std::array<parameter, 0> parameters{};
    template <index_t In, index_t Outputs>
    static constexpr double flops = 0;
    struct nothing {};
    template <class T>
    using record = nothing;

    template <index_t In, index_t Outputs, class T, class Context>
    static nothing forward(Context& ctx, tensor_list<const T>, matrix_view<const T> x,
                           matrix_view<T> logits) {
        static_assert(Outputs == E, "mox::route::shared_decision: the decision must be among as many experts "
                                    "as this layer has");
        const auto board = ctx.signals->template find<signal::decision<E>>();
        for (index_t t = 0; t < x.rows; ++t) {
            for (index_t e = 0; e < E; ++e) logits(t, e) = board(ctx.rows.token_of(t), e);
        }
        return {};
    }

    template <index_t In, index_t Outputs, class T, class Context>
    static void backward(Context& ctx, tensor_list<const T>, tensor_list<T>, matrix_view<const T> x, nothing,
                         matrix_view<const T> dlogits, matrix_view<T>) {
        const auto board = ctx.signal_gradients->template find<signal::decision<E>>();
        for (index_t t = 0; t < x.rows; ++t) {
            for (index_t e = 0; e < E; ++e) board(ctx.rows.token_of(t), e) += dlogits(t, e);
        }
    }
};

}  // namespace route
}  // namespace mox::inline MOX_ABI
