#pragma once

// Parameters of one network as the start of another that is built differently around the same layers: a dense
// network becomes one with mixture of depths, or one with adapters, and back.

#include <algorithm>

#include <mox/model/params.hpp>

namespace mox::inline MOX_ABI {

/// What copy_matching did.
struct transfer_report {
    index_t copied = 0;               ///< tensors taken over
    std::vector<std::string> kept;    ///< tensors of the target that the source does not have, as they were
    std::vector<std::string> unused;  ///< tensors of the source without a place in the target
};

namespace detail {

// Whether child I of L counts as L itself: L only wraps it.
template <class L, std::size_t I>
constexpr bool is_transparent() noexcept {
    if constexpr (requires { L::transparent; }) {
        return L::transparent;
    } else if constexpr (requires { L::wrapped_child; }) {
        return L::wrapped_child == I;
    } else {
        return false;
    }
}

// Paths of all tensors in memory order, without the levels of layers that only wrap another one.
template <class L>
void paths_without_wrappers(const std::string& path, std::vector<std::string>& all, bool named = false) {
    if constexpr (requires { L::parameters; }) {
        for (const parameter& p : L::parameters) all.push_back(tensor_path(path, p.name, named));
    }
    for (index_t r = 0; r < repetitions<L>(); ++r) {
        for_each_index<children_of<L>::size>([&](auto i) {
            using child = typename children_of<L>::template at<i>;
            if constexpr (is_transparent<L, i>()) {
                paths_without_wrappers<child>(path, all, named);
            } else {
                paths_without_wrappers<child>(child_path<L, i>(path, r), all, names_children<L>);
            }
        });
    }
}

// visit(layer type, its path, its path without wrappers, whether that is a name) for L and all inside it.
template <class L, class Visit>
void visit_layers(Visit&& visit, const std::string& path = "", const std::string& plain = "",
                  bool named = false) {
    visit(std::type_identity<L>{}, path, plain, named);
    for (index_t r = 0; r < repetitions<L>(); ++r) {
        for_each_index<children_of<L>::size>([&](auto i) {
            using child = typename children_of<L>::template at<i>;
            if constexpr (is_transparent<L, i>()) {
                visit_layers<child>(visit, child_path<L, i>(path, r), plain, named);
            } else {
                visit_layers<child>(visit, child_path<L, i>(path, r), child_path<L, i>(plain, r),
                                    names_children<L>);
            }
        });
    }
}

}  // namespace detail

/// Copies every tensor that both networks have: the same name, not counting the levels of mox::depth,
/// mox::frozen, mox::observed, mox::adapted_parts and adapters, and the same shape. The rest of `to` stays as
/// it is (a learned router keeps its initial values). The scalar types may differ. Throws mox::error
/// when a tensor of the same name has another shape; `to` is then unchanged.
template <class From, class T, class To, class U>
transfer_report copy_matching(const params<From, T>& from, params<To, U>& to) {
    std::vector<std::string> from_paths, to_paths;
    detail::paths_without_wrappers<From>("", from_paths);
    detail::paths_without_wrappers<To>("", to_paths);
    const auto from_tensors = params<From, T>::tensors();
    const auto to_tensors = params<To, U>::tensors();
    transfer_report report;
    std::vector<std::pair<std::size_t, std::size_t>> pairs;
    std::vector<bool> used(from_paths.size());
    for (std::size_t i = 0; i < to_paths.size(); ++i) {
        const auto found = std::find(from_paths.begin(), from_paths.end(), to_paths[i]);
        // Gradients and moments have no frozen tensors.
        const bool held = found != from_paths.end() &&
                          (from.complete() ||
                           from_tensors[static_cast<std::size_t>(found - from_paths.begin())].spec.trained);
        if (!held) {
            report.kept.push_back(to_tensors[i].path);
            continue;
        }
        const auto j = static_cast<std::size_t>(found - from_paths.begin());
        const parameter &a = from_tensors[j].spec, &b = to_tensors[i].spec;
        const auto shape = [](const parameter& p) {
            return std::to_string(p.count) + " x " + std::to_string(p.rows) + " x " +
                   std::to_string(p.logical_cols());
        };
        check::that(shape(a) == shape(b), "mox::copy_matching",
                    "tensor '" + to_paths[i] + "' must have the same shape in both networks, but is " +
                        shape(a) + " in the source and " + shape(b) + " in the target");
        pairs.emplace_back(j, i);
        used[j] = true;
    }
    for (const auto& [j, i] : pairs) {
        const std::vector<T> values = from.read(from_tensors[j]);
        to.write(to_tensors[i], std::vector<U>(values.begin(), values.end()));
    }
    report.copied = static_cast<index_t>(pairs.size());
    for (std::size_t j = 0; j < used.size(); ++j) {
        if (!used[j]) report.unused.push_back(from_tensors[j].path);
    }
    return report;
}

}  // namespace mox::inline MOX_ABI
