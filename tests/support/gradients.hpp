#pragma once

// The gradient check of a network as a check of a test.

#include <mox/train/gradcheck.hpp>

#include "catch.hpp"

namespace mox_test {

template <class Net>
void gradients(const mox::gradcheck_options& options, const mox::batch& rows) {
    const auto r = mox::gradcheck<Net>(options, rows);
    INFO(r.message << ", worst " << r.worst());
    CHECK(r.passed);
}

/// For networks whose derivatives are near one: central differences are then right to about 1e-9.
template <class Net>
void gradients(const mox::batch& rows) {
    gradients<Net>({.tolerance = 1e-8}, rows);
}

}  // namespace mox_test
