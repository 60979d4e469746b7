#include <mox/route/capacity.hpp>

#include <cmath>
#include <vector>

#include "../support/catch.hpp"

using namespace mox;

TEST_CASE("capacity: the limit is the rounded-up share", "[route][capacity]") {
    static_assert(capacity::factor<1000>::limited);
    static_assert(!capacity::dropless::limited);
    // ceil(c k N / E)
    CHECK(capacity::factor<1000>::limit(8, 1, 4) == 2);
    CHECK(capacity::factor<1000>::limit(9, 1, 4) == 3);
    CHECK(capacity::factor<1250>::limit(8, 1, 4) == 3);
    CHECK(capacity::factor<1250>::limit(16, 2, 4) == 10);
    CHECK(capacity::factor<2000>::limit(7, 2, 8) == 4);
    CHECK(capacity::factor<500>::limit(8, 1, 4) == 1);
    for (index_t tokens = 1; tokens < 70; ++tokens) {
        for (index_t experts = 1; experts < 9; ++experts) {
            const double exact = 1.5 * 2.0 * static_cast<double>(tokens) / static_cast<double>(experts);
            CHECK(capacity::factor<1500>::limit(tokens, 2, experts) ==
                  static_cast<index_t>(std::ceil(exact)));
        }
    }
}

TEST_CASE("capacity: at least one token, and enough for all where nothing is dropped", "[route][capacity]") {
    CHECK(capacity::factor<1>::limit(3, 1, 8) == 1);
    CHECK(capacity::factor<1000>::limit(0, 1, 8) == 1);
    CHECK(capacity::dropless::limit(17, 2, 4) == 17);
    CHECK(capacity::dropless::limit(0, 2, 4) == 0);
}

TEST_CASE("capacity: per sequence, first choices in token order, then second ones", "[route][capacity]") {
    using two = mox::capacity::per_sequence<2>;
    // Two sequences of three tokens, two choices each, experts 0 to 2; 3 is a null expert.
    std::vector<mox::row_t> chosen{0, 1, 0, 3, 0, -1, 1, 0, 2, 0, 1, 0};
    const std::vector<mox::row_t> offsets{0, 3, 6};
    std::vector<mox::row_t> taken(3);
    CHECK(two::admit(offsets.data(), 2, 2, 3, chosen.data(), taken.data()) == 2);
    CHECK(chosen == std::vector<mox::row_t>{0, 1, 0, 3, -1, -1, 1, 0, 2, 0, 1, -1});
}
