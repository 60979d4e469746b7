#pragma once

// Early exit is mixture of depths inside mixture of depths: who leaves skips everything behind.

#include <mox/compose/stack.hpp>
#include <mox/layer/depth.hpp>

namespace mox::inline MOX_ABI {

/// The decisions of an early exit: the policies of each mox::depth in it.
template <class... Policies>
struct exit_by {};

namespace detail {

template <class Exit, class... Blocks>
struct early_exit_of;
template <class... Policies, class Last>
struct early_exit_of<exit_by<Policies...>, Last> {
    using type = depth<Last, Policies...>;
};
template <class... Policies, class First, class... Rest>
struct early_exit_of<exit_by<Policies...>, First, Rest...> {
    using type =
        depth<stack<First, typename early_exit_of<exit_by<Policies...>, Rest...>::type>, Policies...>;
};

template <class Exit>
inline constexpr bool is_exit = false;
template <class... Policies>
inline constexpr bool is_exit<exit_by<Policies...>> = true;

template <class Exit, class First, class... Rest>
struct checked_early_exit {
    static_assert(is_exit<Exit>, "mox::early_exit: the first argument says how tokens leave, such as "
                                 "mox::exit_by<mox::route::learned, mox::keep_permille<500>>");
    using type = First;
};
template <class... Policies, class First, class... Rest>
struct checked_early_exit<exit_by<Policies...>, First, Rest...> {
    using type = stack<First, typename early_exit_of<exit_by<Policies...>, Rest...>::type>;
};
template <class... Policies, class First>
struct checked_early_exit<exit_by<Policies...>, First> {
    using type = First;
};

}  // namespace detail

/// Blocks one after the other; before each but the first, tokens leave for good, so that of n tokens c n pass
/// the second block, c c n the third. early_exit<exit_by<route::learned, keep_permille<500>>, b1, b2, b3> is
/// stack<b1, depth<stack<b2, depth<b3, ...>>, ...>>.
template <class Exit, class... Blocks>
using early_exit = typename detail::checked_early_exit<Exit, Blocks...>::type;

}  // namespace mox::inline MOX_ABI
