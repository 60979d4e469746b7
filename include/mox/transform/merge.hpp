#pragma once

// Adapters into the maps they adapt, and out again.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <mox/layer/adapted_parts.hpp>
#include <mox/layer/dora.hpp>
#include <mox/layer/lora.hpp>
#include <mox/layer/lora_expert.hpp>
#include <mox/layer/lora_experts.hpp>
#include <mox/model/transfer.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

// The map under an adapter, and the columns of it that the adapter adds to.
template <class Base>
struct adapted_map {
    using type = Base;
    static constexpr bool whole = true;
    static constexpr index_t first = 0;
};
template <class Map, index_t First, index_t Width>
struct adapted_map<part_of_map<Map, First, Width>> {
    using type = Map;
    static constexpr bool whole = false;
    static constexpr index_t first = First;
};

template <class L>
struct adapter_of {
    static constexpr bool found = false;
};
template <class Base, adapter_spec Spec, class Gate>
struct adapter_of<lora<Base, Spec, Gate>> {
    static constexpr bool found = true, magnitudes = false;
    using map = adapted_map<Base>;
    // A choice of all ranks with weights of one is none.
    static constexpr bool constant_gate = !Gate::routed || (requires {
        Gate::constant_weights;
    } && lora<Base, Spec, Gate>::slots == lora<Base, Spec, Gate>::ranks);
};
template <class Base, adapter_spec Spec>
struct adapter_of<dora<Base, Spec>> {
    static constexpr bool found = true, magnitudes = true;
    using map = adapted_map<Base>;
    static constexpr bool constant_gate = true;
};
template <class L>
consteval bool check_mergeable() {
    if constexpr (requires { typename L::body; }) {
        static_assert(
            !requires { L::body::rank; },
            "mox::merge: experts are chosen token by token, so their updates are not one matrix and "
            "cannot be merged");
    }
    static_assert(
        !requires { L::update_rank; },
        "mox::merge: mox::lora_expert is for the experts of a mixture; a feed-forward network alone "
        "has its adapters as mox::adapted_ffn");
    if constexpr (requires { L::chooses_update; }) {
        static_assert(!L::chooses_update,
                      "mox::merge: the update of this layer depends on the token or on the labels of the "
                      "batch, so it is not one matrix and cannot be merged");
    }
    if constexpr (adapter_of<L>::found) {
        static_assert(adapter_of<L>::constant_gate,
                      "mox::merge: the gate of this adapter depends on the token, so its update is not one "
                      "matrix and cannot be merged");
        static_assert(is_plain_linear<typename adapter_of<L>::map::type>,
                      "mox::merge: only adapters around mox::linear can be merged");
    }
    for_each_index<children_of<L>::size>(
        [](auto i) { (void)check_mergeable<typename children_of<L>::template at<i>>(); });
    return true;
}

// A map of the plain network: what adapters froze, and what they make of it.
template <class T>
struct merged_map {
    std::string place;
    std::vector<T> base, merged;
};

// The factor "a" or "b" of the adapter at `path`, one row per rank: those of earlier tasks, then its own.
template <class Net, class T>
std::vector<T> adapter_factor(const params<Net, T>& weights, const std::string& path,
                              const std::string& factor) {
    std::vector<T> rows;
    for (const tensor_info& t : params<Net, T>::tensors()) {
        if (t.path == tensor_path(path, "kept_" + factor)) rows = weights.read(t);
    }
    const std::vector<T> own = weights.read(tensor_path(path, factor));
    rows.insert(rows.end(), own.begin(), own.end());
    return rows;
}

// base + s A' B in the columns of the layer; with magnitudes (empty: none) times m / |base + s A' B|, output
// by output, and the bias with it. Every element is rounded once.
template <class Layer, class T>
void merge_factors(std::vector<T>& weight, std::vector<T>& bias, const std::vector<T>& a,
                   const std::vector<T>& b, const std::vector<T>& magnitude) {
    using map = typename adapter_of<Layer>::map;
    constexpr auto in = static_cast<std::size_t>(Layer::in), out = static_cast<std::size_t>(Layer::out),
                   width = static_cast<std::size_t>(map::type::out),
                   first = static_cast<std::size_t>(map::first);
    const std::size_t ranks = a.size() / in;
    std::vector<double> column(in);
    for (std::size_t o = 0; o < out; ++o) {
        T* const to = weight.data() + first + o;
        double square = 0;
        for (std::size_t i = 0; i < in; ++i) {
            const double sum = factor_product(a, b, in, out, i, o, 0, ranks);
            column[i] = static_cast<double>(to[i * width]) + Layer::scale * sum;
            square += column[i] * column[i];
        }
        const double factor =
            magnitude.empty() || square == 0 ? 1 : static_cast<double>(magnitude[o]) / std::sqrt(square);
        for (std::size_t i = 0; i < in; ++i) to[i * width] = static_cast<T>(factor * column[i]);
        if (!bias.empty()) bias[o] = static_cast<T>(factor * static_cast<double>(bias[o]));
    }
}

// The maps of experts with updates of their own: every expert's matrix plus its s A' B.
template <class T, class From, class Moe>
void merge_experts(const params<From, T>& from, std::type_identity<Moe>, const std::string& path,
                   const std::string& place, bool named, std::vector<merged_map<T>>& all) {
    using body = typename Moe::body;
    constexpr auto ranks = static_cast<std::size_t>(body::update_rank);
    // Columns [first, first + width) of a stack of in x cols matrices.
    const auto add = [&](merged_map<T>& map, const std::string& update, std::size_t in, std::size_t cols,
                         std::size_t first, std::size_t width) {
        const std::vector<T> a = from.read(tensor_path(path, update + "_a")),
                             b = from.read(tensor_path(path, update + "_b"));
        for (std::size_t row = 0; row < map.merged.size() / cols; ++row) {
            const std::size_t rank = row / in * ranks;  // the expert's first
            for (std::size_t o = 0; o < width; ++o) {
                const double sum = factor_product(a, b, in, width, row % in, o, rank, rank + ranks);
                T& to = map.merged[row * cols + first + o];
                to = static_cast<T>(static_cast<double>(to) + body::update_scale * sum);
            }
        }
    };
    const auto map_of = [&](const std::string& tensor) {
        const std::vector<T> values = from.read(tensor_path(path, tensor));
        return merged_map<T>{tensor_path(place, tensor, named), values, values};
    };
    constexpr auto d = static_cast<std::size_t>(body::in), h = static_cast<std::size_t>(body::base::hidden);
    merged_map<T> front = map_of(body::gated ? "gate_up" : "up"), behind = map_of("down");
    if constexpr (body::gated) add(front, "gate", d, 2 * h, 0, h);
    add(front, "up", d, (body::gated ? 2 : 1) * h, body::gated ? h : 0, h);
    add(behind, "down", h, d, 0, d);
    all.push_back(std::move(front));
    all.push_back(std::move(behind));
}

// Every map that adapters of `From` are around.
template <class From, class T>
std::vector<merged_map<T>> merged_maps(const params<From, T>& from) {
    std::vector<merged_map<T>> all;
    const auto map_of = [&](const std::string& tensor, const std::string& place) -> merged_map<T>& {
        for (merged_map<T>& known : all) {
            if (known.place == place) return known;
        }
        const std::vector<T> values = from.read(tensor);
        return all.emplace_back(merged_map<T>{place, values, values});
    };
    std::string scaled;        // the adapter inside the last layer with magnitudes
    std::string parts, plain;  // the last layer whose parts have adapters
    bool named_parts = false;
    visit_layers<From>([&](auto layer, const std::string& path, const std::string& place, bool named) {
        using adapter = typename decltype(layer)::type;
        if constexpr (requires { adapter::wrapped_child; }) {
            parts = path;
            plain = place;
            named_parts = named;
        } else if constexpr (requires { adapter::body::update_rank; }) {
            merge_experts(from, layer, path, place, named, all);
        } else if constexpr (adapter_of<adapter>::found) {
            using map = typename adapter_of<adapter>::map;
            if (!adapter_of<adapter>::magnitudes && path == scaled && !scaled.empty()) return;
            const std::string inner = adapter_of<adapter>::magnitudes ? tensor_path(path, "0") : path;
            const std::string base = tensor_path(map::whole ? inner : parts, "0.0.");
            const auto target = [&](std::string_view tensor) {
                return map::whole ? tensor_path(place, tensor, named)
                                  : tensor_path(plain, tensor, named_parts);
            };
            std::vector<T> magnitude, bias;
            if constexpr (adapter_of<adapter>::magnitudes) {
                scaled = inner;
                magnitude = from.read(tensor_path(path, "magnitude"));
                if constexpr (map::type::parameters.size() > 1) bias = from.read(base + "bias");
            }
            const std::vector<T> frozen_bias = bias;
            merge_factors<adapter>(map_of(base + "weight", target("weight")).merged, bias,
                                   adapter_factor(from, inner, "a"), adapter_factor(from, inner, "b"),
                                   magnitude);
            if (!bias.empty()) all.push_back({target("bias"), frozen_bias, bias});
        }
    });
    return all;
}

// The tensor of `to` at a place (its path without the levels of layers that only wrap another one).
template <class To, class T>
tensor_info tensor_at(std::string_view call, const std::string& place) {
    std::vector<std::string> places;
    paths_without_wrappers<To>("", places);
    const auto found = std::find(places.begin(), places.end(), place);
    if (found == places.end()) check::fail(call, "the target has no tensor '" + place + "'");
    return params<To, T>::tensors()[static_cast<std::size_t>(found - places.begin())];
}

template <class T>
bool same_values(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
}

}  // namespace detail

/// Puts every adapter into the map it is around: `to` becomes `from` without adapters, W + s A' B (LoRA,
/// arXiv 2106.09685), with the magnitudes of mox::dora m / |W + s A' B| times that, and so its bias (arXiv
/// 2402.09353), and the updates of mox::lora_expert into each expert. `to` is the network that `from` adapts;
/// the maps must hold what `from` froze, so that nothing is merged twice. Gates that depend on the token do
/// not compile. Returns how many tensors changed. Throws mox::error when a map of `to` differs from the
/// frozen one (it is merged already, or trained on), or is not there; `to` is then unchanged.
template <class From, class To, class T>
index_t merge(const params<From, T>& from, params<To, T>& to) {
    static_assert(detail::check_mergeable<From>());
    const auto all = detail::merged_maps(from);
    std::vector<tensor_info> targets;
    for (const auto& map : all) {
        targets.push_back(detail::tensor_at<To, T>("mox::merge", map.place));
        check::that(detail::same_values(to.read(targets.back()), map.base), "mox::merge",
                    "tensor '" + targets.back().path +
                        "' of the target must be the adapter's frozen map, but it differs: it is merged "
                        "already, or it was trained on");
    }
    for (std::size_t i = 0; i < all.size(); ++i) to.write(targets[i], all[i].merged);
    return static_cast<index_t>(all.size());
}

/// Undoes a merge, exactly. Throws mox::error when a map of `to` is not what mox::merge of these adapters
/// made of it; `to` is then unchanged.
template <class From, class To, class T>
index_t unmerge(const params<From, T>& from, params<To, T>& to) {
    static_assert(detail::check_mergeable<From>());
    const auto all = detail::merged_maps(from);
    std::vector<tensor_info> targets;
    for (const auto& map : all) {
        targets.push_back(detail::tensor_at<To, T>("mox::unmerge", map.place));
        check::that(detail::same_values(to.read(targets.back()), map.merged), "mox::unmerge",
                    "tensor '" + targets.back().path + "' of the target is not merged with this adapter");
    }
    for (std::size_t i = 0; i < all.size(); ++i) to.write(targets[i], all[i].base);
    return static_cast<index_t>(all.size());
}

}  // namespace mox::inline MOX_ABI
