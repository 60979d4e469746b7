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

/// visit(tensor, slope, gradient) for one number of each trained tensor of w: the central difference of
/// value() by it, and what g says. For losses that the checker of the library does not know.
template <class Net, class Value, class Visit>
void for_each_slope(mox::params<Net, double>& w, const mox::params<Net, double>& g, Value&& value,
                    Visit&& visit) {
    constexpr double step = 1e-5;
    for (const auto& info : mox::params<Net, double>::tensors()) {
        if (!info.spec.trained) continue;
        const auto values = w.read(info);
        auto moved = values;
        const std::size_t i = values.size() / 2;
        const auto at = [&](double by) {
            moved[i] = values[i] + by;
            w.write(info, moved);
            return value();
        };
        const double slope = (at(step) - at(-step)) / (2 * step);
        w.write(info, values);
        INFO(info.path);
        visit(info, slope, g.read(info)[i]);
    }
}

}  // namespace mox_test
