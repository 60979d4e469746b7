#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>

#include <mox/core/config.hpp>
#include <mox/core/error.hpp>

namespace mox::inline MOX_ABI::schedule {

namespace detail {

// Half a cosine from 1 down to `floor` while t goes from 0 to 1.
inline double falling(double t, double floor) {
    return floor + (1.0 - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * t));
}

}  // namespace detail

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
        return detail::falling(t, floor);
    }
};

/// A cosine from 1 down to `floor`, again and again, each period `growth` times as long as the one before
/// (SGDR, arXiv 1608.03983). The defaults are those of Expert Merging.
struct cosine_restarts {
    index_t period = 50;
    index_t growth = 2;
    double floor = 0;

    /// step counts from 0. Throws mox::error for a period or a growth below 1.
    double operator()(index_t step) const {
        check::that(period > 0 && growth > 0, "mox::schedule::cosine_restarts",
                    "members 'period' and 'growth' must be at least 1");
        index_t length = period;
        if (growth == 1) step %= period;
        while (step >= length) {
            step -= length;
            length *= growth;
        }
        return detail::falling(static_cast<double>(step) / static_cast<double>(length), floor);
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
