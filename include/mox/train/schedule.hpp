#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>

#include <mox/core/config.hpp>

namespace mox::inline MOX_ABI::schedule {

/// A factor on the learning rate: linear warm-up from 0 to 1, then a cosine down to `floor` at `steps`.
struct warmup_cosine {
    index_t warmup = 0;
    index_t steps = 1;
    double floor = 0.1;

    /// step counts from 0.
    double operator()(index_t step) const {
        if (step < warmup) return static_cast<double>(step + 1) / static_cast<double>(warmup);
        const double span = static_cast<double>(std::max<index_t>(1, steps - warmup));
        const double t = std::min(1.0, static_cast<double>(step - warmup) / span);
        return floor + (1.0 - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * t));
    }
};

/// Linear warm-up, then constant.
struct warmup_constant {
    index_t warmup = 0;
    double operator()(index_t step) const {
        return step < warmup ? static_cast<double>(step + 1) / static_cast<double>(warmup) : 1.0;
    }
};

}  // namespace mox::inline MOX_ABI::schedule
