#pragma once

#include <string_view>

#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI {

/// M experts that return zero and cost nothing share the router with the true ones, so that a token can
/// choose to use fewer (AdaMoE, arXiv 2406.13233). Raise k when you add them.
template <index_t M>
struct null_experts {
    static_assert(M >= 0, "mox::null_experts: the number must not be negative");
    using policy = route::nulls_policy;
    static constexpr std::string_view name = "null_experts";
    static constexpr index_t count = M;
};

}  // namespace mox::inline MOX_ABI
