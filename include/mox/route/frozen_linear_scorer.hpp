#pragma once

#include <mox/route/linear_scorer.hpp>

namespace mox::inline MOX_ABI::route {

/// A linear_scorer that is used and not trained: the router of a trained mixture whose experts are adapted
/// (mox::lora_expert). The gradient of x passes through.
struct frozen_linear_scorer : linear_scorer {
    static constexpr bool trained = false;
};

}  // namespace mox::inline MOX_ABI::route
