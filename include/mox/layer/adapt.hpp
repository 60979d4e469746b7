#pragma once

// How the linear maps inside a layer are wrapped. Layers that have such maps take one of these types; the
// adapters themselves are in layer/lora.hpp and layer/lora_experts.hpp.

#include <type_traits>

#include <mox/core/config.hpp>

namespace mox::inline MOX_ABI {

/// Trained like everything else.
struct as_they_are {
    template <class L>
    using around = L;
};

/// Whether the maps that `Adapter` wraps are trained like everything else. Wrappers that change nothing say
/// so.
template <class Adapter>
inline constexpr bool trains_maps = std::is_same_v<Adapter, as_they_are>;

namespace detail {

template <template <class> class>
struct wraps;

template <class Adapter>
consteval bool check_adapter() {
    static_assert(
        requires { typename wraps<Adapter::template around>; },
        "mox: this argument does not say how it wraps a map; expected one such as mox::as_they_are, "
        "mox::as_frozen, mox::with_lora<r8> or mox::with_each<...>, not a layer such as mox::lora");
    return true;
}

// A map whose output has parts of these widths, wrapped part by part by adapters that can
// (layer/adapted_parts.hpp), else as a whole.
template <class Adapter, class Map, index_t... Widths>
struct around_fused {
    using type = typename Adapter::template around<Map>;
};
template <class Adapter, class Map, index_t... Widths>
requires requires { typename Adapter::template around_parts<Map, Widths...>; }
struct around_fused<Adapter, Map, Widths...> {
    using type = typename Adapter::template around_parts<Map, Widths...>;
};

}  // namespace detail

}  // namespace mox::inline MOX_ABI
