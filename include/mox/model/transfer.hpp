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

// Which tensor of one network is which of another.
struct tensor_matches {
    std::vector<std::pair<std::size_t, std::size_t>> pairs;  // source, target
    std::vector<std::size_t> kept, unused;                   // of the target, of the source
};

template <class From, class T, class To, class U>
tensor_matches match_tensors(const params<From, T>& from, const params<To, U>&) {
    std::vector<std::string> from_paths, to_paths;
    paths_without_wrappers<From>("", from_paths);
    paths_without_wrappers<To>("", to_paths);
    const auto from_tensors = params<From, T>::tensors();
    const auto to_tensors = params<To, U>::tensors();
    const auto shape = [](const parameter& p) {
        return std::to_string(p.count) + " x " + std::to_string(p.rows) + " x " +
               std::to_string(p.logical_cols());
    };
    tensor_matches matches;
    std::vector<bool> used(from_paths.size());
    for (std::size_t i = 0; i < to_paths.size(); ++i) {
        const std::string wanted = shape(to_tensors[i].spec);
        std::vector<std::size_t> namesakes;
        std::size_t found = from_paths.size();
        for (std::size_t j = 0; j < from_paths.size(); ++j) {
            // Gradients and moments have no frozen tensors.
            if (from_paths[j] != to_paths[i] || !(from.complete() || from_tensors[j].spec.trained)) continue;
            namesakes.push_back(j);
            if (found == from_paths.size() && !used[j] && shape(from_tensors[j].spec) == wanted) found = j;
        }
        if (found < from_paths.size()) {
            matches.pairs.emplace_back(found, i);
            used[found] = true;
            continue;
        }
        if (namesakes.size() == 1 && std::count(to_paths.begin(), to_paths.end(), to_paths[i]) == 1) {
            check::fail("mox::copy_matching", "tensor '" + to_paths[i] +
                                                  "' must have the same shape in both networks, but is " +
                                                  shape(from_tensors[namesakes.front()].spec) +
                                                  " in the source and " + wanted + " in the target");
        }
        matches.kept.push_back(i);
    }
    for (std::size_t j = 0; j < used.size(); ++j) {
        if (!used[j]) matches.unused.push_back(j);
    }
    return matches;
}

template <class From, class T, class To, class U>
void copy_matches(const tensor_matches& matches, const params<From, T>& from, params<To, U>& to) {
    const auto from_tensors = params<From, T>::tensors();
    const auto to_tensors = params<To, U>::tensors();
    for (const auto& [j, i] : matches.pairs) {
        const std::vector<T> values = from.read(from_tensors[j]);
        to.write(to_tensors[i], std::vector<U>(values.begin(), values.end()));
    }
}

}  // namespace detail

/// Copies every tensor that both networks have: the same name, not counting the levels of mox::depth,
/// mox::frozen, mox::observed, mox::adapted_parts and adapters, and the same shape. The rest of `to` stays as
/// it is (a learned router keeps its initial values). Several tensors of one name (a mixture's router and
/// that of the depth around it, adapters around adapters) pair up by their shapes, then in order. The scalar
/// types may differ. Throws mox::error when the only tensor of a name has another shape; `to` is then
/// unchanged.
template <class From, class T, class To, class U>
transfer_report copy_matching(const params<From, T>& from, params<To, U>& to) {
    const detail::tensor_matches matches = detail::match_tensors(from, to);
    detail::copy_matches(matches, from, to);
    const auto from_tensors = params<From, T>::tensors();
    const auto to_tensors = params<To, U>::tensors();
    transfer_report report;
    report.copied = static_cast<index_t>(matches.pairs.size());
    for (const std::size_t i : matches.kept) report.kept.push_back(to_tensors[i].path);
    for (const std::size_t j : matches.unused) report.unused.push_back(from_tensors[j].path);
    return report;
}

}  // namespace mox::inline MOX_ABI
