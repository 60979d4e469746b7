#pragma once

// Matching of signals: every reader needs a producer before it, only what somebody reads is computed, and a
// signal that means nothing without a reader must have one.

#include <mox/layer/contract.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

template <class L>
struct reads_of {
    using type = leaves<>;
};
template <class L>
requires requires { typename L::reads; }
struct reads_of<L> {
    using type = typename L::reads;
};

template <class L>
struct publishes_of {
    using type = leaves<>;
};
template <class L>
requires requires { typename L::publishes; }
struct publishes_of<L> {
    using type = typename L::publishes;
};

template <class Available, class List>
inline constexpr bool all_available = false;
template <class Available, class... Ss>
inline constexpr bool all_available<Available, leaves<Ss...>> = (Available::template contains<Ss> && ... &&
                                                                 true);

// What is published once the layers have run, given what was before. A layer's own reads come first, then its
// children in order; what it publishes itself is there when it is done. Few and flat templates, so that the
// compiler's way to the sentence is short.
template <class Available, class List>
struct flow {
    using type = Available;
};
template <class Available, class L, class... Ls>
struct flow<Available, leaves<L, Ls...>> {
    static_assert(
        all_available<Available, typename reads_of<L>::type>,
        "mox: this layer reads a signal that no layer before it publishes (attention_received needs a "
        "mox::attention layer earlier in the network, a shared decision a mox::sequence_gate, a pooled loss "
        "a router with balance::pooled)");
    using inside = typename flow<Available, children_of<L>>::type;
    using type = typename flow<join<inside, typename publishes_of<L>::type>, leaves<Ls...>>::type;
};

template <class S>
inline constexpr bool needs_reader = false;
template <class S>
requires requires { S::needs_reader; }
inline constexpr bool needs_reader<S> = S::needs_reader;

// Those of List that need a reader and are not in Read.
template <class Read, class List>
struct still_unread;
template <class Read, class... Ss>
struct still_unread<Read, leaves<Ss...>> {
    template <class Sum, class S>
    using add = std::conditional_t<needs_reader<S> && !Read::template contains<S>, join<Sum, leaves<S>>, Sum>;
    template <class Sum, class... Rest>
    struct sum {
        using type = Sum;
    };
    template <class Sum, class S, class... Rest>
    struct sum<Sum, S, Rest...> : sum<add<Sum, S>, Rest...> {};
    using type = typename sum<leaves<>, Ss...>::type;
};

// What nobody has read once the layers have run, given what was unread before: the order of `flow`.
template <class Unread, class List>
struct unread {
    using type = Unread;
};
template <class Unread, class L, class... Ls>
struct unread<Unread, leaves<L, Ls...>> {
    using before = typename still_unread<typename reads_of<L>::type, Unread>::type;
    using inside = typename unread<before, children_of<L>>::type;
    using type =
        typename unread<join<inside, typename still_unread<leaves<>, typename publishes_of<L>::type>::type>,
                        leaves<Ls...>>::type;
};

template <class List>
struct unique;
template <>
struct unique<leaves<>> {
    using type = leaves<>;
};
template <class S, class... Ss>
struct unique<leaves<S, Ss...>> {
    using rest = typename unique<leaves<Ss...>>::type;
    using type = std::conditional_t<leaves<Ss...>::template contains<S>, rest, join<leaves<S>, rest>>;
};

template <class L>
struct teaches_of {
    using type = leaves<>;
};
template <class L>
requires requires { typename L::teaches; }
struct teaches_of<L> {
    using type = typename L::teaches;
};

// What `Of` says about a layer and all layers inside.
template <template <class> class Of, class L>
struct collected;
template <template <class> class Of, class List>
struct collected_list {
    using type = leaves<>;
};
template <template <class> class Of, class L, class... Ls>
struct collected_list<Of, leaves<L, Ls...>> {
    using type = join<typename collected<Of, L>::type, typename collected_list<Of, leaves<Ls...>>::type>;
};
template <template <class> class Of, class L>
struct collected {
    using type = join<typename Of<L>::type, typename collected_list<Of, children_of<L>>::type>;
};

}  // namespace detail

/// The signals that some layer of the network reads.
template <class Net>
using signals_read = typename detail::unique<typename detail::collected<detail::reads_of, Net>::type>::type;

/// The signals whose producers get a gradient from some layer that reads them.
template <class Net>
using signals_taught =
    typename detail::unique<typename detail::collected<detail::teaches_of, Net>::type>::type;

/// Fails to compile, with a sentence, when a signal is read that nobody before publishes, or when one that
/// needs a reader (it says `static constexpr bool needs_reader = true`) has none behind its producer.
template <class Net>
consteval bool check_network() {
    (void)check_layer<Net>();
    static_assert(
        detail::unread<leaves<>, leaves<Net>>::type::size == 0,
        "mox: a router has balance::pooled or balance::pooled_soft, and no layer behind it computes "
        "that loss: put mox::pooled_load<width, outputs of the router> after the last such router, "
        "or use balance::load, a loss of one layer");
    return sizeof(type_tag<typename detail::flow<leaves<>, leaves<Net>>::type>) > 0;
}

}  // namespace mox::inline MOX_ABI
