#include <mox/route/expert_allocation.hpp>

#include "../support/catch.hpp"

using namespace mox;

TEST_CASE("expert_allocation: constant in groups, from low to high layers", "[route][expert_allocation]") {
    static_assert(route::inverted_triangle(0, 32) == 2 && route::inverted_triangle(7, 32) == 2);
    static_assert(route::inverted_triangle(8, 32) == 4 && route::inverted_triangle(31, 32) == 8);
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
}
