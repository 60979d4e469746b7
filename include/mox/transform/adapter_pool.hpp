#pragma once

// Adapters into a pool that serves many of them, and out again.

#include <mox/layer/lora_pool.hpp>
#include <mox/transform/merge.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

template <class L>
inline constexpr bool is_pool = false;
template <class Base, pool_spec Spec>
inline constexpr bool is_pool<lora_pool<Base, Spec>> = true;

// First rank of `wanted` neighbours that no adapter owns, or -1.
inline index_t free_ranks(const std::vector<double>& first, const std::vector<double>& rank, index_t total,
                          index_t wanted) {
    std::vector<bool> taken(static_cast<std::size_t>(total));
    for (std::size_t e = 0; e < rank.size(); ++e) {
        for (double i = first[e]; i < first[e] + rank[e]; ++i) {
            if (i >= 0 && i < static_cast<double>(total)) taken[static_cast<std::size_t>(i)] = true;
        }
    }
    index_t run = 0;
    for (index_t i = 0; i < total; ++i) {
        run = taken[static_cast<std::size_t>(i)] ? 0 : run + 1;
        if (run == wanted) return i + 1 - wanted;
    }
    return -1;
}

}  // namespace detail

/// Puts the adapters of `from` (a network with mox::lora, plain gate) under the number `id` into the pools at
/// the same places of `to`; returns how many pools took one. Adapters of different ranks may lie in one pool.
/// Throws mox::error when `id` is no id, is taken, a pool has no adapter at its place or no room left; `to`
/// is then unchanged.
template <class From, class To, class T>
index_t load_adapter(const params<From, T>& from, params<To, T>& to, index_t id) {
    static_assert(detail::check_mergeable<From>());
    struct place {
        std::string path;
        index_t rank, width_in, width_out;
        double scale;
        bool used = false;
    };
    std::vector<std::pair<std::string, place>> found;
    detail::visit_layers<From>([&](auto type, const std::string& path, const std::string& plain, bool) {
        using layer = typename decltype(type)::type;
        if constexpr (detail::adapter_of<layer>::found) {
            static_assert(!detail::adapter_of<layer>::magnitudes,
                          "mox::load_adapter: a pool has no room for the magnitudes of mox::dora; merge it "
                          "instead");
            found.emplace_back(plain, place{path, layer::ranks, layer::in, layer::out, layer::scale});
        }
    });
    std::vector<std::pair<std::string, std::vector<T>>> changes;
    index_t pools = 0;
    constexpr std::string_view call = "mox::load_adapter";
    detail::visit_layers<To>([&](auto type, const std::string& path, const std::string& plain, bool) {
        using pool = typename decltype(type)::type;
        if constexpr (detail::is_pool<pool>) {
            ++pools;
            const auto match =
                std::find_if(found.begin(), found.end(), [&](const auto& f) { return f.first == plain; });
            const std::string where = "the pool at '" + path + "'";
            check::that(match != found.end(), call, where + " has no adapter at its place in the source");
            place& p = match->second;
            p.used = true;
            check::that(p.width_in == pool::in && p.width_out == pool::out, call,
                        where + " is " + std::to_string(pool::in) + " x " + std::to_string(pool::out) +
                            " wide, the adapter at its place " + std::to_string(p.width_in) + " x " +
                            std::to_string(p.width_out));
            check::that(id >= 0 && id < pool::adapters, call,
                        "argument 'id' must be a number from 0 to " + std::to_string(pool::adapters - 1) +
                            ", got " + std::to_string(id));
            const auto name = [&](std::string_view tensor) { return detail::tensor_path(path, tensor); };
            std::vector<T> first = to.read(name("first")), rank = to.read(name("rank")),
                           scale = to.read(name("scale")), a = to.read(name("a")), b = to.read(name("b"));
            const auto e = static_cast<std::size_t>(id);
            check::that(rank[e] == T(0), call,
                        where + " already has an adapter " + std::to_string(id) + "; unload it first");
            const index_t at =
                detail::free_ranks(std::vector<double>(first.begin(), first.end()),
                                   std::vector<double>(rank.begin(), rank.end()), pool::ranks, p.rank);
            check::that(at >= 0, call,
                        where + " has no " + std::to_string(p.rank) + " neighbouring ranks left of its " +
                            std::to_string(pool::ranks));
            const std::vector<T> from_a = detail::adapter_factor(from, p.path, "a"),
                                 from_b = detail::adapter_factor(from, p.path, "b");
            std::copy(from_a.begin(), from_a.end(), a.begin() + at * pool::in);
            std::copy(from_b.begin(), from_b.end(), b.begin() + at * pool::out);
            first[e] = static_cast<T>(at);
            rank[e] = static_cast<T>(p.rank);
            scale[e] = static_cast<T>(p.scale);
            changes.emplace_back(name("a"), std::move(a));
            changes.emplace_back(name("b"), std::move(b));
            changes.emplace_back(name("first"), std::move(first));
            changes.emplace_back(name("rank"), std::move(rank));
            changes.emplace_back(name("scale"), std::move(scale));
        }
    });
    check::that(pools > 0, call, "the target has no mox::lora_pool");
    for (const auto& [plain, p] : found) {
        check::that(p.used, call, "the adapter at '" + p.path + "' has no pool at its place in the target");
    }
    for (const auto& [path, values] : changes) to.write(path, values);
    return pools;
}

/// Frees the ranks of an adapter in every pool. Throws mox::error when it is not loaded.
template <class To, class T>
void unload_adapter(params<To, T>& to, index_t id) {
    std::vector<std::pair<std::string, std::vector<T>>> changes;
    detail::visit_layers<To>([&](auto type, const std::string& path, const std::string&, bool) {
        using pool = typename decltype(type)::type;
        if constexpr (detail::is_pool<pool>) {
            std::vector<T> rank = to.read(detail::tensor_path(path, "rank"));
            check::that(id >= 0 && id < pool::adapters && rank[static_cast<std::size_t>(id)] != T(0),
                        "mox::unload_adapter", "adapter " + std::to_string(id) + " is not loaded");
            rank[static_cast<std::size_t>(id)] = T(0);
            changes.emplace_back(detail::tensor_path(path, "rank"), std::move(rank));
        }
    });
    check::that(!changes.empty(), "mox::unload_adapter", "the network has no mox::lora_pool");
    for (const auto& [path, values] : changes) to.write(path, values);
}

}  // namespace mox::inline MOX_ABI
