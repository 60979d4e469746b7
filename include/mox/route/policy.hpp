#pragma once

// Policies say what they are by a tag, so that layers take them in any order and refuse others by name.

#include <cstdint>
#include <string_view>
#include <type_traits>

#include <mox/core/coefficient.hpp>
#include <mox/core/leaves.hpp>
#include <mox/core/view.hpp>

namespace mox::inline MOX_ABI {

namespace route {

/// What is said to a batch or stream without the labels that a layer needs.
inline constexpr std::string_view labels_wanted =
    "the batch must have labels, one per sequence; give them with batch::with_labels, or to decode with "
    "stream::with_label";

struct scorer_policy {};    ///< tokens -> logits (its own parameters)
struct selector_policy {};  ///< logits -> chosen experts
struct gate_policy {};      ///< logits of the chosen -> weights of their outputs
struct nulls_policy {};     ///< experts that cost nothing
struct capacity_policy {};  ///< a limit of tokens per expert
struct balance_policy {};   ///< auxiliary losses on the router
struct pool_policy {};      ///< what routers leave for a loss over all of them
struct shared_policy {};    ///< layers that every token passes

namespace detail {

template <class Kind, class P>
constexpr bool is_kind() {
    if constexpr (requires { typename P::policy; }) {
        return std::is_same_v<typename P::policy, Kind>;
    } else {
        return false;
    }
}

template <class Kind, class... Ps>
struct filter {
    using type = leaves<>;
};
template <class Kind, class P, class... Ps>
struct filter<Kind, P, Ps...> {
    using rest = typename filter<Kind, Ps...>::type;
    using type = std::conditional_t<is_kind<Kind, P>(), join<leaves<P>, rest>, rest>;
};

template <class List, class Default>
struct first_or {
    using type = typename List::template at<0>;
};
template <class Default>
struct first_or<leaves<>, Default> {
    using type = Default;
};

}  // namespace detail

/// Whether P is a policy of one of these kinds.
template <class P, class... Kinds>
inline constexpr bool is_any_kind = (detail::is_kind<Kinds, P>() || ...);

/// All policies of one kind, in order.
template <class Kind, class... Ps>
using all_of_kind = typename detail::filter<Kind, Ps...>::type;

/// The policy of one kind, or a default.
template <class Kind, class Default, class... Ps>
using one_of_kind = typename detail::first_or<all_of_kind<Kind, Ps...>, Default>::type;

/// Choices per token. A selector that chooses among all says so instead of a number.
template <class Selector, index_t Outputs>
inline constexpr index_t slots_of = [] {
    if constexpr (requires { Selector::all_slots; }) {
        return Outputs;
    } else {
        return Selector::slots;
    }
}();

/// What gates and balance losses see of one router: N tokens, `experts` true experts and behind them
/// `outputs - experts` null experts, `slots` choices per token.
template <class T>
struct router_view {
    matrix_view<const T> logits;       ///< N x outputs
    matrix_view<const T> probability;  ///< N x outputs, softmax over all; empty unless somebody needs it
    const T* log_sum_exp = nullptr;    ///< N, together with probability
    const row_t* chosen = nullptr;     ///< N x slots, before dropping; -1: a slot that nobody got
    const T* gate = nullptr;           ///< N x slots, weights of the outputs
    const row_t* counts = nullptr;     ///< outputs: how often each was chosen, before dropping
    const row_t* sequence_offsets = nullptr;
    const row_t* sequence_labels = nullptr;        ///< one per sequence, or null
    matrix_view<const std::uint8_t> allowed = {};  ///< sequences x experts, 0 for those not allowed; or empty
    index_t sequences = 0;
    index_t experts = 0;
    index_t slots = 0;
    bool training = true;

    index_t tokens() const noexcept { return logits.rows; }
    index_t outputs() const noexcept { return logits.cols; }
    bool is_expert(row_t e) const noexcept { return e >= 0 && e < experts; }
    const row_t* chosen_by(index_t t) const noexcept { return chosen + t * slots; }
};

}  // namespace route
}  // namespace mox::inline MOX_ABI
