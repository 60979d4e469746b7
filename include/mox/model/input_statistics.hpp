#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <mox/layer/observed.hpp>
#include <mox/model/transfer.hpp>

namespace mox::inline MOX_ABI {

/// One `Collector` for each layer of `Net` under mox::observed, in the order of the network, fed with what
/// reaches that layer:
///
///     mox::input_statistics<net, mox::activation_norms> inputs;
///     tape.observe(inputs);
///     for (const auto& rows : batches) mox::infer<net>(weights, rows, tape);
///
/// A collector is made from the width of its layer and has add(matrix_view<const T>), as
/// mox::activation_norms and mox::corda_covariance have.
template <class Net, class Collector>
class input_statistics {
    static_assert(
        observed_count<Net>() > 0,
        "mox::input_statistics: the network shows nothing; wrap what is to be seen in mox::observed, "
        "or the maps of a layer with mox::as_observed<>");
    static_assert(
        std::is_constructible_v<Collector, index_t> &&
            requires(Collector & c, matrix_view<const float> x) { c.add(x); },
        "mox::input_statistics: a collector is made from the width of a layer and needs "
        "'add(matrix_view<const T> x)'");

public:
    struct entry {
        std::string path;   ///< of the observed layer
        std::string place;  ///< the same without layers that only wrap another one (mox::copy_matching)
        Collector inputs;
    };

    input_statistics() {
        detail::visit_layers<Net>(
            [&](auto layer, const std::string& path, const std::string& place, bool /*named*/) {
                using L = typename decltype(layer)::type;
                if constexpr (requires { L::is_observed; }) {
                    entries_.push_back({path, place, Collector(L::in)});
                    layers_.push_back(type_id<L>());
                }
            });
    }

    /// Called by the network.
    template <class T>
    void operator()(const observation<T>& seen) {
        const auto i = static_cast<std::size_t>(seen.index);
        check::that(i < layers_.size() && layers_[i] == seen.layer, "mox::input_statistics",
                    "these are the statistics of another network than the one that runs");
        entries_[i].inputs.add(seen.x);
    }

    std::span<const entry> entries() const noexcept { return entries_; }

    /// The statistics of the layer with this path, or without counting wrappers this place. Throws mox::error
    /// when there is none.
    const Collector& at(std::string_view path) const {
        std::string known;
        for (const entry& e : entries_) {
            if (e.path == path) return e.inputs;
        }
        for (const entry& e : entries_) {
            if (e.place == path) return e.inputs;
            known += (known.empty() ? "'" : ", '") + e.path + "'";
        }
        check::fail("mox::input_statistics::at",
                    "there is no observed layer '" + std::string(path) + "'; this network has " + known);
    }

private:
    std::vector<entry> entries_;
    std::vector<const void*> layers_;
};

}  // namespace mox::inline MOX_ABI
