#pragma once

// What the library runs: the same tile, and the remaining rows split evenly (7 become 4 + 3, never 6 + 1),
// the next panel asked for while this one is worked on, and the lines of the results before they are written.
// It shows where the weights come from memory, as those of many experts do.

#include "problem.hpp"

namespace ladder {

inline void library(const problem& p) {
    using mox::kernel::panel_view;
    using mox::kernel::row_source;
    mox::kernel::product<float, mox::simd::default_arch>(
        row_source<const float>(p.x, p.in, p.index), 0, p.rows,
        panel_view<const float>(p.panels, p.in, p.out), 0, p.out / W,
        {row_source<float>(p.y, p.out), p.out, nullptr, false});
}

}  // namespace ladder
