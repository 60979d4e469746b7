#pragma once

// Matching of signals: every reader needs a producer before it, and only what somebody reads is computed.

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

/// Fails to compile, with a sentence, when a signal is read that nobody before publishes.
template <class Net>
consteval bool check_network() {
    (void)check_layer<Net>();
    return sizeof(type_tag<typename detail::flow<leaves<>, leaves<Net>>::type>) > 0;
}

}  // namespace mox::inline MOX_ABI
