#include <mox/route/pooled.hpp>

#include "../support/catch.hpp"

using namespace mox;

TEST_CASE("pooled: a kind of policy of its own, with room for probabilities, weights and a count",
          "[route][pooled]") {
    using kind = route::pool_policy;
    static_assert(route::all_of_kind<kind, balance::pooled, int, balance::pooled_soft>::size == 2);
    static_assert(route::all_of_kind<route::balance_policy, balance::pooled>::size == 0);
    static_assert(!balance::pooled::soft && balance::pooled_soft::soft);
    CHECK(signal::routing<6>::width == 13);
}
