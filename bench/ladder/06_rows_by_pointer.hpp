#pragma once

// The tile takes one pointer per row, so rows may lie anywhere: choosing tokens copies nothing. The gain is
// small for wide maps and large for thin ones, where the copy was a good part of the work.

#include "05_register_tile.hpp"

namespace ladder {

inline void rows_by_pointer(const problem& p) {
    tiles(p, [&](index_t i) { return p.chosen(i); });
}

}  // namespace ladder
