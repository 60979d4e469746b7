#include <mox/train/adamw_values.hpp>

#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using Catch::Matchers::Contains;
using mox_test::distance;
using mox_test::normal_numbers;

TEST_CASE("adamw_values: the steps of adamw", "[train][adamw]") {
    using net = linear<3, 5>;
    const adamw_options options{.rate = 0.02, .decay = 0.1};
    params<net, double> w, g;
    w.write("weight", normal_numbers<double>(15, 1));
    auto values = w.read("weight");
    adamw<net, double> adam(options);
    adamw_values<double> few(options);
    for (std::uint64_t step = 0; step < 5; ++step) {
        const auto gradient = normal_numbers<double>(15, 10 + step);
        g.write("weight", gradient);
        adam.step(w, g, 0.5);
        few.step(values, gradient, 0.5);
        CHECK(distance(values, w.read("weight")) < 1e-14);
    }
    CHECK(few.steps() == 5);
}

TEST_CASE("adamw_values: bad input is refused", "[train][adamw]") {
    CHECK_THROWS_WITH(adamw_values<double>({.rate = -1}), Contains("mox::adamw_values: options 'rate'"));
    adamw_values<float> few;
    std::vector<float> two(2), three(3);
    CHECK_THROWS_WITH(few.step(two, three), Contains("argument 'gradient' must have 2 elements"));
    few.step(two, two);
    CHECK_THROWS_WITH(few.step(three, three), Contains("argument 'values' must have 2 elements"));
    std::vector<float> none;
    adamw_values<float>().step(none, none);
}
