#pragma once

// The three ways a run can fail because of its surroundings; `what()` is one sentence for the person at the
// keyboard. A program ends with status 2 on each of them.

#include <stdexcept>

namespace support {

/// The command line is wrong.
struct usage_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// A text cannot be used.
struct input_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// A result cannot be written.
struct output_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace support
