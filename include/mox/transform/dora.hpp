#pragma once

#include <cmath>
#include <string>
#include <vector>

#include <mox/layer/dora.hpp>
#include <mox/layer/mixlora.hpp>
#include <mox/model/transfer.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

template <class L>
inline constexpr bool is_dora = false;
template <class Base, adapter_spec Spec>
inline constexpr bool is_dora<dora<Base, Spec>> = true;

template <class L>
inline constexpr bool is_mixdora = false;
template <index_t D, index_t H, class Act, index_t E, mixlora_spec Spec, class... Policies>
inline constexpr bool is_mixdora<mixlora<D, H, Act, E, Spec, Policies...>> = Spec.magnitudes;

// |W_o + s sum_r A_r B_ro|, expert by expert; a and b hold the ranks of all experts, W their columns from
// `first` on of a map with `columns` of them.
template <class T>
std::vector<T> adapted_norms(const std::vector<T>& base, std::size_t columns, std::size_t first,
                             const std::vector<T>& a, const std::vector<T>& b, std::size_t out,
                             std::size_t rank, double scale) {
    const std::size_t in = base.size() / columns, experts = b.size() / (rank * out);
    std::vector<T> norms;
    for (std::size_t e = 0; e < experts; ++e) {
        for (std::size_t o = 0; o < out; ++o) {
            double sum = 0;
            for (std::size_t i = 0; i < in; ++i) {
                const double update = factor_product(a, b, in, out, i, o, e * rank, (e + 1) * rank);
                const double v = static_cast<double>(base[i * columns + first + o]) + scale * update;
                sum += v * v;
            }
            norms.push_back(static_cast<T>(std::sqrt(sum)));
        }
    }
    return norms;
}

template <class Layer, class Net, class T>
void start_mixdora(params<Net, T>& weights, const std::string& prefix) {
    const auto read = [&](const std::string& name) { return std::as_const(weights).read(prefix + name); };
    constexpr auto rank = static_cast<std::size_t>(Layer::rank), width = static_cast<std::size_t>(Layer::in),
                   front = static_cast<std::size_t>(Layer::front),
                   hidden = static_cast<std::size_t>(Layer::hidden);
    const auto start = [&](const std::string& map, const std::string& base, std::size_t columns,
                           std::size_t first, std::size_t out) {
        weights.write(prefix + map + "_magnitude",
                      adapted_norms(read(base + ".0.weight"), columns, first, read(map + "_a"),
                                    read(map + "_b"), out, rank, Layer::scale));
    };
    const std::string front_name(Layer::child_names[0]);
    if constexpr (Layer::updates_gate) start("gate", front_name, front, 0, hidden);
    if constexpr (Layer::updates_up) start("up", front_name, front, front - hidden, hidden);
    if constexpr (Layer::updates_down) start("down", "down", width, 0, width);
}

}  // namespace detail

/// Sets the magnitudes of every mox::dora, and of every expert of a mox::mixlora with magnitudes, to the
/// norms of its maps, base and adapter, so that nothing is scaled; returns how many layers. Once, when the
/// base has its weights.
template <class Net, class T>
index_t start_dora(params<Net, T>& weights) {
    index_t count = 0;
    detail::visit_layers<Net>([&](auto type, const std::string& path, const std::string&, bool) {
        using layer = typename decltype(type)::type;
        const std::string prefix = path.empty() ? "" : path + ".";
        if constexpr (detail::is_dora<layer>) {
            const auto read = [&](const char* name) { return std::as_const(weights).read(prefix + name); };
            constexpr auto out = static_cast<std::size_t>(layer::out),
                           ranks = static_cast<std::size_t>(layer::ranks);
            weights.write(prefix + "magnitude",
                          detail::adapted_norms(read("0.0.0.weight"), out, 0, read("0.a"), read("0.b"), out,
                                                ranks, layer::scale));
            ++count;
        } else if constexpr (detail::is_mixdora<layer>) {
            detail::start_mixdora<layer>(weights, prefix);
            ++count;
        }
    });
    return count;
}

}  // namespace mox::inline MOX_ABI
