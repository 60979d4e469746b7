#include <mox/route/expert_allocation.hpp>

#include <utility>

#include "../support/catch.hpp"

using namespace mox;

TEST_CASE("expert_allocation: constant in groups, from low to high layers", "[route][expert_allocation]") {
    static_assert(route::inverted_triangle(0, 32) == 2 && route::inverted_triangle(7, 32) == 2);
    static_assert(route::inverted_triangle(8, 32) == 4 && route::inverted_triangle(31, 32) == 8);
    static_assert(route::triangle(0, 32) == 8 && route::triangle(8, 32) == 6 &&
                  route::triangle(16, 32) == 4 && route::triangle(31, 32) == 2);
    static_assert(route::hourglass(0, 32) == 8 && route::hourglass(8, 32) == 2 &&
                  route::hourglass(23, 32) == 2 && route::hourglass(24, 32) == 8);
    static_assert(route::rectangle(0, 32) == 5 && route::rectangle(31, 32) == 5);
    static_assert(route::inverted_triangle(16, 32) == 6);
    // The same number in all: 160 in 32 layers.
    CHECK(route::inverted_triangle.total(32) == 160);
    CHECK(route::triangle.total(32) == 160);
    CHECK(route::hourglass.total(32) == 160);
    CHECK(route::rectangle.total(32) == 160);
    constexpr route::expert_allocation<2> halves{{1, 3}};
    CHECK(halves(0, 3) == 1);
    CHECK(halves(1, 3) == 1);
    CHECK(halves(2, 3) == 3);
    CHECK(halves.total(0) == 0);
    for (const auto& [layer, layers] : {std::pair{3, 3}, {-1, 3}, {0, 0}})
        CHECK_THROWS_WITH(halves(layer, layers), Catch::Matchers::Contains("argument 'layer' must lie in"));
}
