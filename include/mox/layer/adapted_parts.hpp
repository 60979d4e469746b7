#pragma once

// Adapters around the parts of a fused map: queries, keys and values of one product, gate and up columns of
// another. The product stays one; each part has its own adapter, gate and router, or none.

#include <algorithm>
#include <array>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include <mox/kernel/elementwise.hpp>
#include <mox/layer/adapt.hpp>
#include <mox/layer/frozen.hpp>

namespace mox::inline MOX_ABI {

/// The columns [First, First + Width) of what `Map` has written already, as the base of an adapter, which
/// adds to them: as a layer it does nothing, and nothing comes back through it. An adapter around it must run
/// it first, with the y that it was given itself.
template <class Map, index_t First, index_t Width>
struct part_of_map {
    static constexpr std::string_view name = "part_of_map";
    static constexpr index_t in = Map::in;
    static constexpr index_t out = Width;
    static constexpr double flops(double /*context*/) { return 0; }

    template <class T>
    static void forward(context<T>&, param_ref<part_of_map, const T>, matrix_view<const T>, matrix_view<T>) {}
    template <class T>
    static void backward(context<T>& ctx, param_ref<part_of_map, const T>, param_ref<part_of_map, T>,
                         matrix_view<const T>, matrix_view<T> dx) {
        if (!ctx.input_gradient) return;
        parallel_ranges(ctx.exec, dx.rows, 64, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) std::fill_n(dx.row(t), dx.cols, T(0));
        });
    }
};

/// A frozen map whose output has parts of the given widths, an adapter for each: y = map(x), and in the
/// columns of part i also what Adapters[i] adds. mox::with_each makes it.
template <class Map, class Widths, class... Adapters>
struct adapted_parts;

template <class Map, index_t... Widths, class... Adapters>
struct adapted_parts<Map, std::integer_sequence<index_t, Widths...>, Adapters...> {
    static_assert(check_layer<Map>());
    static_assert(sizeof...(Adapters) == sizeof...(Widths) && (Widths + ... + 0) == Map::out,
                  "mox::adapted_parts: each part needs an adapter, and their widths must be that of the map");

private:
    static constexpr std::array<index_t, sizeof...(Widths)> widths{Widths...};
    static constexpr std::array<bool, sizeof...(Widths)> adapts{!std::is_same_v<Adapters, as_frozen>...};
    static constexpr index_t first(std::size_t part) {
        index_t sum = 0;
        for (std::size_t i = 0; i < part; ++i) sum += widths[i];
        return sum;
    }
    template <class Adapter, std::size_t I>
    using part = typename Adapter::template around<part_of_map<Map, first(I), widths[I]>>;
    template <std::size_t... I>
    static leaves<frozen<Map>, part<Adapters, I>...> children_with(std::index_sequence<I...>);

public:
    using children = decltype(children_with(std::index_sequence_for<Adapters...>{}));
    static_assert(!(trains_maps<Adapters> || ...),
                  "mox::with_each: the map is frozen, so a part of it cannot be trained by itself; "
                  "mox::as_frozen leaves a part without an adapter");

    static constexpr std::string_view name = "adapted_parts";
    static constexpr index_t in = Map::in;
    static constexpr index_t out = Map::out;
    /// The child whose tensors keep the names that they have without adapters (model/transfer.hpp).
    static constexpr std::size_t wrapped_child = 0;

    static constexpr double flops(double context) {
        double sum = 0;
        for_each_index<children::size>([&](auto i) { sum += children::template at<i>::flops(context); });
        return sum;
    }

    template <class T>
    static void forward(context<T>& ctx, param_ref<adapted_parts, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        frozen<Map>::template forward<T>(ctx, w.template child<0>(), x, y);
        for_each_index<sizeof...(Widths)>([&](auto i) {
            if constexpr (adapts[i])
                children::template at<i + 1>::template forward<T>(ctx, w.template child<i + 1>(), x,
                                                                  y.middle_cols(first(i), widths[i]));
        });
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<adapted_parts, const T> w, param_ref<adapted_parts, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const arena_scope scope(*ctx.scratch);
        // The map comes last, as it was first, and writes dx: what comes back through the adapters waits.
        matrix_view<T> all, one;
        if (ctx.input_gradient) {
            constexpr auto adapters = std::count(adapts.begin(), adapts.end(), true);
            if (adapters > 0) all = ctx.temporary(dy.rows, in);
            if (adapters > 1) one = ctx.temporary(dy.rows, in);
        }
        for_each_index_reversed<sizeof...(Widths)>([&](auto i) {
            if constexpr (adapts[i]) {
                constexpr bool begins = i + 1 == last_adapter();
                using adapted = typename children::template at<i + 1>;
                adapted::template backward<T>(ctx, w.template child<i + 1>(), g.template child<i + 1>(),
                                              dy.middle_cols(first(i), widths[i]), begins ? all : one);
                if (ctx.input_gradient && !begins) kernel::add_rows<T>(ctx.exec, one, all);
            }
        });
        frozen<Map>::template backward<T>(ctx, w.template child<0>(), g.template child<0>(), dy, dx);
        if (ctx.input_gradient && last_adapter() > 0) kernel::add_rows<T>(ctx.exec, all, dx);
    }

private:
    // The child that is the last part with an adapter; 0 when there is none.
    static constexpr std::size_t last_adapter() {
        std::size_t last = 0;
        for (std::size_t i = 0; i < adapts.size(); ++i) {
            if (adapts[i]) last = i + 1;
        }
        return last;
    }
};

namespace detail {

template <class Map, class Widths, class Parts, class... Adapters>
struct parts_of;
template <class Map, index_t... Widths, std::size_t... I, class... Adapters>
struct parts_of<Map, std::integer_sequence<index_t, Widths...>, std::index_sequence<I...>, Adapters...> {
    using type = adapted_parts<Map, std::integer_sequence<index_t, Widths...>,
                               std::tuple_element_t<I, std::tuple<Adapters...>>...>;
};

}  // namespace detail

/// Wraps every map of a layer in its own way, fused ones part by part, in the order q, k, v, out of attention
/// and gate, up, down of a gated feed-forward network. LoRA on queries and values alone, as in its paper
/// (arXiv 2106.09685):
///   attention<spec, mask, with_each<with_lora<r8>, as_frozen, with_lora<r8>, as_frozen>>
/// A router for every map, as in MoLA (arXiv 2402.08562):
///   adapted_ffn<D, H, act, with_each<experts, experts, experts>>, experts = with_lora_experts<...>
template <class... Adapters>
struct with_each {
    static_assert(sizeof...(Adapters) > 1 && (detail::check_adapter<Adapters>() && ...),
                  "mox::with_each: give an adapter for each map of the layer");

    template <class L>
    using around =
        typename std::tuple_element_t<sizeof...(Adapters) - 1, std::tuple<Adapters...>>::template around<L>;

    template <class L, index_t... Widths>
    struct parts {
        static_assert(
            sizeof...(Adapters) == sizeof...(Widths) + 1,
            "mox::with_each: give an adapter for each map of the layer: four for mox::attention (q, "
            "k, v, out), three for mox::adapted_ffn (gate, up, down), two for mox::adapted_mlp (up, "
            "down); mox::as_frozen leaves a map without one");
        using type =
            typename detail::parts_of<L, std::integer_sequence<index_t, Widths...>,
                                      std::make_index_sequence<sizeof...(Widths)>, Adapters...>::type;
    };
    template <class L, index_t... Widths>
    using around_parts = typename parts<L, Widths...>::type;
};

}  // namespace mox::inline MOX_ABI
