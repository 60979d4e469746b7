#pragma once

#include <string_view>

#include <mox/core/view.hpp>
#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI {

namespace signal {

/// What the routers of a network did, summed over them token by token: E probabilities, then per output how
/// often it was chosen (or its gate weights), then how many routers the token passed.
template <index_t E>
struct routing {
    static constexpr index_t width = 2 * E + 1;
    static constexpr const char* name = "routing";
    static constexpr bool needs_reader = true;
};

}  // namespace signal

namespace balance {

/// What routers with this policy leave for a mox::pooled_load behind them: one balance loss over the tokens
/// of all layers together, as MixLoRA (arXiv 2404.15159) and DynMoLE (arXiv 2504.00661) compute it, where
/// balance::load is a loss per layer. A network without a mox::pooled_load behind them does not compile.
struct pooled {
    using policy = route::pool_policy;
    static constexpr std::string_view name = "pooled";
    static constexpr bool soft = false;
};

/// The same with gate weights in the place of choices (DynMoLE), which have a gradient too.
struct pooled_soft {
    using policy = route::pool_policy;
    static constexpr std::string_view name = "pooled_soft";
    static constexpr bool soft = true;
};

}  // namespace balance
}  // namespace mox::inline MOX_ABI
