#pragma once

#include <cmath>
#include <string>
#include <vector>

#include <mox/layer/dora.hpp>
#include <mox/model/transfer.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

template <class L>
inline constexpr bool is_dora = false;
template <class Base, adapter_spec Spec>
inline constexpr bool is_dora<dora<Base, Spec>> = true;

// |W_o + s sum_r A_r B_ro| of the layer at `path`.
template <class Layer, class Net, class T>
std::vector<T> dora_norms(const params<Net, T>& weights, const std::string& path) {
    const std::string prefix = path.empty() ? "" : path + ".";
    const std::vector<T> a = weights.read(prefix + "0.a"), b = weights.read(prefix + "0.b"),
                         base = weights.read(prefix + "0.0.0.weight");
    constexpr auto in = static_cast<std::size_t>(Layer::in), out = static_cast<std::size_t>(Layer::out),
                   ranks = static_cast<std::size_t>(Layer::ranks);
    std::vector<T> norms;
    for (std::size_t o = 0; o < out; ++o) {
        double sum = 0;
        for (std::size_t i = 0; i < in; ++i) {
            double update = 0;
            for (std::size_t r = 0; r < ranks; ++r)
                update += static_cast<double>(a[r * in + i]) * static_cast<double>(b[r * out + o]);
            const double v = static_cast<double>(base[i * out + o]) + Layer::scale * update;
            sum += v * v;
        }
        norms.push_back(static_cast<T>(std::sqrt(sum)));
    }
    return norms;
}

}  // namespace detail

/// Sets the magnitudes of every mox::dora to the norms of its map, base and adapter, so that nothing is
/// scaled; returns how many layers. Once, when the base has its weights.
template <class Net, class T>
index_t start_dora(params<Net, T>& weights) {
    index_t count = 0;
    detail::visit_layers<Net>([&](auto type, const std::string& path, const std::string&, bool) {
        using layer = typename decltype(type)::type;
        if constexpr (detail::is_dora<layer>) {
            weights.write((path.empty() ? "" : path + ".") + "magnitude",
                          detail::dora_norms<layer>(std::as_const(weights), path));
            ++count;
        }
    });
    return count;
}

}  // namespace mox::inline MOX_ABI
