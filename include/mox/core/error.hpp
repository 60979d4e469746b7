#pragma once

// One exception type and the checks that throw it. A message names the call, the argument,
// what was expected and what came. Nothing in the library prints or aborts.

#include <stdexcept>
#include <string>
#include <string_view>

#include <mox/core/config.hpp>

namespace mox::inline MOX_ABI {

/// Thrown for every mistake that only run time can see: shapes, values, ids, missing data.
class error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

namespace check {

[[noreturn]] MOX_NOINLINE inline void fail(std::string_view call, std::string_view what) {
    throw error(std::string(call) + ": " + std::string(what));
}

/// `call`: "argument" must be what; got ...
[[noreturn]] MOX_NOINLINE inline void fail_size(std::string_view call, std::string_view argument,
                                                std::string_view property, index_t expected, index_t got) {
    throw error(std::string(call) + ": argument '" + std::string(argument) + "' must have " +
                std::to_string(expected) + " " + std::string(property) + ", got " + std::to_string(got));
}

inline void that(bool condition, std::string_view call, std::string_view what) {
    if constexpr (MOX_CHECK_LEVEL >= 1) {
        if (!condition) fail(call, what);
    }
}

inline void size(std::string_view call, std::string_view argument, std::string_view property,
                 index_t expected, index_t got) {
    if constexpr (MOX_CHECK_LEVEL >= 1) {
        if (expected != got) fail_size(call, argument, property, expected, got);
    }
}

/// Every value must lie in [0, limit); used for token ids and targets.
template <class Integer>
void ids(std::string_view call, std::string_view argument, const Integer* values, index_t count,
         index_t limit) {
    if constexpr (MOX_CHECK_LEVEL >= 1) {
        for (index_t i = 0; i < count; ++i) {
            if (values[i] < 0 || static_cast<index_t>(values[i]) >= limit) {
                fail(call, "argument '" + std::string(argument) + "' must hold values from 0 to " +
                               std::to_string(limit - 1) + ", got " + std::to_string(values[i]) +
                               " at position " + std::to_string(i));
            }
        }
    }
}

}  // namespace check
}  // namespace mox::inline MOX_ABI
