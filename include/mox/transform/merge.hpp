#pragma once

// Adapters into the maps they adapt, and out again.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <mox/layer/dora.hpp>
#include <mox/layer/lora.hpp>
#include <mox/layer/lora_experts.hpp>
#include <mox/model/transfer.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

template <class L>
struct adapter_of {
    static constexpr bool found = false;
};
template <class Base, adapter_spec Spec, class Gate>
struct adapter_of<lora<Base, Spec, Gate>> {
    static constexpr bool found = true, magnitudes = false;
    using base = Base;
    static constexpr bool constant_gate = !Gate::routed;
};
template <class Base, adapter_spec Spec>
struct adapter_of<dora<Base, Spec>> {
    static constexpr bool found = true, magnitudes = true;
    using base = Base;
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
    if constexpr (requires { L::chooses_update; }) {
        static_assert(!L::chooses_update,
                      "mox::merge: the update of this layer depends on the token or on the labels of the "
                      "batch, so it is not one matrix and cannot be merged");
    }
    if constexpr (adapter_of<L>::found) {
        static_assert(adapter_of<L>::constant_gate,
                      "mox::merge: the gate of this adapter depends on the token, so its update is not one "
                      "matrix and cannot be merged");
        static_assert(is_plain_linear<typename adapter_of<L>::base>,
                      "mox::merge: only adapters around mox::linear can be merged");
    }
    for_each_index<children_of<L>::size>(
        [](auto i) { (void)check_mergeable<typename children_of<L>::template at<i>>(); });
    return true;
}

// A map of the plain network: what adapters froze, and what they make of it.
template <class T>
struct merged_map {
    std::string path;
    std::vector<T> base, merged;
};

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

// base + s A' B; with magnitudes (empty: none) times m / |base + s A' B|, output by output, and the bias with
// it. Every element is rounded once.
template <class Layer, class T>
void merge_factors(std::vector<T>& weight, std::vector<T>& bias, const std::vector<T>& a,
                   const std::vector<T>& b, const std::vector<T>& magnitude) {
    constexpr auto in = static_cast<std::size_t>(Layer::in), out = static_cast<std::size_t>(Layer::out);
    const std::size_t ranks = a.size() / in;
    std::vector<double> column(in);
    for (std::size_t o = 0; o < out; ++o) {
        double square = 0;
        for (std::size_t i = 0; i < in; ++i) {
            double sum = 0;
            for (std::size_t r = 0; r < ranks; ++r)
                sum += static_cast<double>(a[r * in + i]) * static_cast<double>(b[r * out + o]);
            column[i] = static_cast<double>(weight[i * out + o]) + Layer::scale * sum;
            square += column[i] * column[i];
        }
        const double factor = magnitude.empty() ? 1 : static_cast<double>(magnitude[o]) / std::sqrt(square);
        for (std::size_t i = 0; i < in; ++i) weight[i * out + o] = static_cast<T>(factor * column[i]);
        if (!bias.empty()) bias[o] = static_cast<T>(factor * static_cast<double>(bias[o]));
    }
}

// Every map that adapters of `From` are around.
template <class From, class T>
std::vector<merged_map<T>> merged_maps(const params<From, T>& from) {
    std::vector<merged_map<T>> all;
    std::string scaled;  // the adapter inside the last layer with magnitudes
    visit_layers<From>([&](auto layer, const std::string& path, const std::string& place, bool named) {
        using adapter = typename decltype(layer)::type;
        if constexpr (adapter_of<adapter>::found) {
            constexpr bool magnitudes = adapter_of<adapter>::magnitudes;
            const std::string prefix = path.empty() ? "" : path + ".";
            if (!magnitudes && path == scaled && !scaled.empty()) return;
            const std::string inner = magnitudes ? prefix + "0" : path;
            const std::string base = (inner.empty() ? "" : inner + ".") + "0.0.";
            merged_map<T> weight{tensor_path(place, "weight", named), from.read(base + "weight"), {}}, bias;
            weight.merged = weight.base;
            std::vector<T> magnitude;
            if constexpr (magnitudes) {
                scaled = inner;
                magnitude = from.read(prefix + "magnitude");
                if constexpr (adapter_of<adapter>::base::parameters.size() > 1)
                    bias = {tensor_path(place, "bias", named), from.read(base + "bias"), {}};
            }
            bias.merged = bias.base;
            merge_factors<adapter>(weight.merged, bias.merged, adapter_factor(from, inner, "a"),
                                   adapter_factor(from, inner, "b"), magnitude);
            all.push_back(std::move(weight));
            if (!bias.path.empty()) all.push_back(std::move(bias));
        }
    });
    return all;
}

template <class T>
bool same_values(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
}

}  // namespace detail

/// Puts every adapter into the map it is around: `to` becomes `from` without adapters, W + s A' B (LoRA,
/// arXiv 2106.09685), with the magnitudes of mox::dora m / |W + s A' B| times that, and so its bias (arXiv
/// 2402.09353). `to` is the network that `from` adapts; the maps must hold what `from` froze, so that nothing
/// is merged twice. Gates that depend on the token do not compile. Returns how many tensors changed. Throws
/// mox::error when a map of `to` differs from the frozen one (it is merged already, or trained on), or is not
/// there; `to` is then unchanged.
template <class From, class To, class T>
index_t merge(const params<From, T>& from, params<To, T>& to) {
    static_assert(detail::check_mergeable<From>());
    const auto all = detail::merged_maps(from);
    for (const auto& map : all) {
        check::that(detail::same_values(to.read(map.path), map.base), "mox::merge",
                    "tensor '" + map.path +
                        "' of the target must be the adapter's frozen map, but it differs: it is merged "
                        "already, or it was trained on");
    }
    for (const auto& map : all) to.write(map.path, map.merged);
    return static_cast<index_t>(all.size());
}

/// Undoes a merge, exactly. Throws mox::error when a map of `to` is not what mox::merge of these adapters
/// made of it; `to` is then unchanged.
template <class From, class To, class T>
index_t unmerge(const params<From, T>& from, params<To, T>& to) {
    static_assert(detail::check_mergeable<From>());
    const auto all = detail::merged_maps(from);
    for (const auto& map : all) {
        check::that(detail::same_values(to.read(map.path), map.merged), "mox::unmerge",
                    "tensor '" + map.path + "' of the target is not merged with this adapter");
    }
    for (const auto& map : all) to.write(map.path, map.base);
    return static_cast<index_t>(all.size());
}

}  // namespace mox::inline MOX_ABI
