#pragma once

#include <mox/core/config.hpp>

namespace mox::inline MOX_ABI {

/// A number as a template argument, for policies: balance::load<coefficient{0.02}>.
struct coefficient {
    double value = 0;
};

}  // namespace mox::inline MOX_ABI
