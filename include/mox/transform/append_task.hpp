#pragma once

// One task after another (MoRA, later MoRAM, arXiv 2506.21035): the ranks of a learned task are frozen and
// kept, and new ones beside them learn the next.

#include <algorithm>
#include <string>
#include <vector>

#include <mox/transform/merge.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

// The ratio of the scales when the second adapter keeps all ranks of the first, else 0.
template <class From, class To>
inline constexpr double kept_ratio = 0;
template <class Base, adapter_spec Learned, adapter_spec Next, class Gate, class NextGate>
inline constexpr double kept_ratio<lora<Base, Learned, Gate>, lora<Base, Next, NextGate>> =
    Next.kept_ranks == Learned.kept_ranks + Learned.rank
        ? lora<Base, Learned, Gate>::scale / lora<Base, Next, NextGate>::scale
        : 0;

}  // namespace detail

/// `to` becomes `from` with every adapter's ranks among its kept ones: adapter_spec{.rank = r} is followed by
/// {.rank = s, .kept_ranks = r}, that by {.rank = t, .kept_ranks = r + s}. The new ranks of `to` keep their
/// start, all other tensors are copied; kept ranks come in the order they were learned. Kept B take the two
/// scales' ratio, so that the update of a kept rank stays what it was. Returns how many adapters there are.
/// Throws mox::error when the networks differ in anything else; `to` is then unchanged.
template <class From, class To, class T>
index_t append_task(const params<From, T>& from, params<To, T>& to) {
    struct place {
        std::string path;
        double ratio;
    };
    std::vector<place> adapters;
    detail::visit_layers<From>([&](auto type, const std::string& path, const std::string&, bool) {
        detail::visit_layers<To>([&](auto next, const std::string& other, const std::string&, bool) {
            constexpr double ratio =
                detail::kept_ratio<typename decltype(type)::type, typename decltype(next)::type>;
            if (ratio != 0 && path == other) adapters.push_back({path, ratio});
        });
    });
    check::that(
        !adapters.empty(), "mox::append_task",
        "argument 'to' must have adapters where 'from' has them, with as many kept ranks as those have "
        "in all");
    std::vector<std::pair<std::string, std::vector<T>>> changes;
    std::vector<std::string> done;
    for (const place& p : adapters) {
        const std::string prefix = p.path.empty() ? "" : p.path + ".";
        for (const std::string factor : {"a", "b"}) {
            std::vector<T> kept = detail::adapter_factor(from, p.path, factor);
            if (factor == "b") {
                for (T& v : kept) v *= static_cast<T>(p.ratio);
            }
            changes.emplace_back(prefix + "kept_" + factor, std::move(kept));
            done.push_back(prefix + factor);
            done.push_back(prefix + "kept_" + factor);
        }
    }
    for (const tensor_info& t : params<To, T>::tensors()) {
        if (std::find(done.begin(), done.end(), t.path) != done.end()) continue;
        const std::vector<T> values = from.read(t.path);
        check::that(static_cast<index_t>(values.size()) == t.spec.logical_size(), "mox::append_task",
                    "tensor '" + t.path + "' must have the same shape in both networks");
        changes.emplace_back(t.path, values);
    }
    for (const auto& [path, values] : changes) to.write(path, values);
    return static_cast<index_t>(adapters.size());
}

}  // namespace mox::inline MOX_ABI
