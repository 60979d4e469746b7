#pragma once

// What the program sees of its network: plain types only, because those of mox differ between instruction
// sets.

#include <cstddef>

struct expert {
    const char* arch;
    std::ptrdiff_t width;
    /// rows x width values to as many.
    void (*infer)(const float* x, float* y, std::ptrdiff_t rows);
};

/// The build of expert.cpp that is best for this CPU.
const expert& best_expert();
