#pragma once

// Adapters into the maps they adapt, and out again.

#include <mox/layer/lora.hpp>
#include <mox/layer/lora_experts.hpp>
#include <mox/model/transfer.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

template <class L>
inline constexpr bool is_linear = false;
template <index_t In, index_t Out, bias Bias, bool Residual>
inline constexpr bool is_linear<linear<In, Out, Bias, Residual>> = true;

template <class L>
struct adapter_of {
    static constexpr bool found = false;
};
template <class Base, adapter_spec Spec, class Gate>
struct adapter_of<lora<Base, Spec, Gate>> {
    static constexpr bool found = true;
    using base = Base;
    static constexpr bool constant_gate = !Gate::routed;
};
template <class L>
consteval bool check_mergeable() {
    if constexpr (requires { typename L::body; }) {
        static_assert(
            !requires { L::body::rank; },
            "mox::merge: experts are chosen token by token, so their updates are not one matrix and "
            "cannot be merged");
    }
    if constexpr (requires { L::chooses_update; }) {
        static_assert(!L::chooses_update,
                      "mox::merge: the update of this layer depends on the token or on the labels of the "
                      "batch, so it is not one matrix and cannot be merged");
    }
    if constexpr (adapter_of<L>::found) {
        static_assert(adapter_of<L>::constant_gate,
                      "mox::merge: the gate of this adapter depends on the token, so its update is not one "
                      "matrix and cannot be merged");
        static_assert(is_linear<typename adapter_of<L>::base>,
                      "mox::merge: only adapters around mox::linear can be merged");
    }
    for_each_index<children_of<L>::size>(
        [](auto i) { (void)check_mergeable<typename children_of<L>::template at<i>>(); });
    return true;
}

// The factor "a" or "b" of the adapter at `path`, one row per rank: those of earlier tasks, then its own.
template <class Net, class T>
std::vector<T> adapter_factor(const params<Net, T>& weights, const std::string& path,
                              const std::string& factor) {
    const std::string prefix = path.empty() ? "" : path + ".";
    std::vector<T> rows;
    for (const tensor_info& t : params<Net, T>::tensors()) {
        if (t.path == prefix + "kept_" + factor) rows = weights.read(t);
    }
    const std::vector<T> own = weights.read(prefix + factor);
    rows.insert(rows.end(), own.begin(), own.end());
    return rows;
}

// base + s A' B, rounded once per element.
template <class Layer, class Net, class T>
std::vector<T> merged_weight(const params<Net, T>& weights, const std::string& path) {
    const std::string prefix = path.empty() ? "" : path + ".";
    const std::vector<T> a = adapter_factor(weights, path, "a"), b = adapter_factor(weights, path, "b");
    std::vector<T> merged = weights.read(prefix + "0.0.weight");
    constexpr auto in = static_cast<std::size_t>(Layer::in), out = static_cast<std::size_t>(Layer::out);
    const std::size_t ranks = a.size() / in;
    for (std::size_t i = 0; i < in; ++i) {
        for (std::size_t o = 0; o < out; ++o) {
            double sum = 0;
            for (std::size_t r = 0; r < ranks; ++r)
                sum += static_cast<double>(a[r * in + i]) * static_cast<double>(b[r * out + o]);
            merged[i * out + o] =
                static_cast<T>(static_cast<double>(merged[i * out + o]) + Layer::scale * sum);
        }
    }
    return merged;
}

template <class T>
bool same_values(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
}

}  // namespace detail

/// Adds every adapter to the map it is around: `to` becomes `from` without adapters, W + s A' B (LoRA, arXiv
/// 2106.09685). `to` is the network that `from` adapts; the maps must hold what `from` froze, so that nothing
/// is merged twice. Gates that depend on the token do not compile. Throws mox::error when a map of `to`
/// differs from the frozen one (it is merged already, or trained on), or is not there; `to` is then
/// unchanged.
template <class From, class To, class T>
index_t merge(const params<From, T>& from, params<To, T>& to) {
    static_assert(detail::check_mergeable<From>());
    std::vector<std::pair<std::string, std::vector<T>>> all;
    detail::visit_layers<From>([&](auto layer, const std::string& path, const std::string& place,
                                   bool named) {
        using adapter = typename decltype(layer)::type;
        if constexpr (detail::adapter_of<adapter>::found) {
            const std::string plain = detail::tensor_path(place, "weight", named);
            const std::string base = (path.empty() ? "" : path + ".") + "0.0.weight";
            check::that(detail::same_values(to.read(plain), from.read(base)), "mox::merge",
                        "tensor '" + plain +
                            "' of the target must be the adapter's frozen map, but it differs: it is merged "
                            "already, or it was trained on");
            all.emplace_back(plain, detail::merged_weight<adapter>(from, path));
        }
    });
    for (const auto& [path, values] : all) to.write(path, values);
    return static_cast<index_t>(all.size());
}

/// Undoes a merge, exactly. Throws mox::error when a map of `to` is not what mox::merge of these adapters
/// made of it; `to` is then unchanged.
template <class From, class To, class T>
index_t unmerge(const params<From, T>& from, params<To, T>& to) {
    static_assert(detail::check_mergeable<From>());
    std::vector<std::pair<std::string, std::vector<T>>> all;
    detail::visit_layers<From>(
        [&](auto layer, const std::string& path, const std::string& place, bool named) {
            using adapter = typename decltype(layer)::type;
            if constexpr (detail::adapter_of<adapter>::found) {
                const std::string plain = detail::tensor_path(place, "weight", named);
                check::that(detail::same_values(to.read(plain), detail::merged_weight<adapter>(from, path)),
                            "mox::unmerge",
                            "tensor '" + plain + "' of the target is not merged with this adapter");
                all.emplace_back(plain, from.read((path.empty() ? "" : path + ".") + "0.0.weight"));
            }
        });
    for (const auto& [path, values] : all) to.write(path, values);
    return static_cast<index_t>(all.size());
}

}  // namespace mox::inline MOX_ABI
