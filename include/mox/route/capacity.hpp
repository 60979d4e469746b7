#pragma once

#include <algorithm>
#include <string_view>

#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI::capacity {

/// No limit: nothing is ever dropped, and nothing is padded.
struct dropless {
    using policy = route::capacity_policy;
    static constexpr bool limited = false;
    static constexpr index_t limit(index_t tokens, index_t /*slots*/, index_t /*experts*/) { return tokens; }
};

/// At most ceil(c k N / E) tokens per expert, c in thousandths (Switch, arXiv 2101.03961). First choices are
/// admitted in token order, then second ones; a dropped slot contributes zero and its gate is not
/// redistributed.
template <index_t Permille>
struct factor {
    static_assert(Permille > 0, "mox::capacity::factor: the capacity factor must be positive");
    using policy = route::capacity_policy;
    static constexpr bool limited = true;
    static constexpr index_t limit(index_t tokens, index_t slots, index_t experts) {
        return std::max<index_t>(1, (Permille * slots * tokens + 1000 * experts - 1) / (1000 * experts));
    }
};

}  // namespace mox::inline MOX_ABI::capacity
