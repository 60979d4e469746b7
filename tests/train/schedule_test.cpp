#include <mox/train/schedule.hpp>

#include <cmath>

#include "../support/catch.hpp"

using mox::index_t;

TEST_CASE("warm-up rises linearly and ends at one", "[train][schedule]") {
    const mox::schedule::warmup_cosine s{.warmup = 10, .steps = 110, .floor = 0.1};
    for (index_t i = 0; i < 10; ++i) REQUIRE(s(i) == Approx(static_cast<double>(i + 1) / 10));
    REQUIRE(s(0) > 0);  // the first step already learns
    REQUIRE(s(9) == 1.0);
    REQUIRE(s(10) == 1.0);
}

TEST_CASE("the cosine falls from one to the floor", "[train][schedule]") {
    const mox::schedule::warmup_cosine s{.warmup = 10, .steps = 110, .floor = 0.1};
    REQUIRE(s(60) == Approx(0.55));  // half way: the mean of 1 and the floor
    REQUIRE(s(35) == Approx(0.1 + 0.45 * (1 + std::sqrt(0.5))));
    REQUIRE(s(110) == Approx(0.1));
    for (index_t i = 10; i < 110; ++i) REQUIRE(s(i + 1) < s(i));
    // Past the end the floor holds.
    REQUIRE(s(111) == s(110));
    REQUIRE(s(1'000'000) == s(110));
}

TEST_CASE("corners of the cosine schedule", "[train][schedule]") {
    const mox::schedule::warmup_cosine cold{.warmup = 0, .steps = 4, .floor = 0.0};
    REQUIRE(cold(0) == 1.0);
    REQUIRE(cold(2) == Approx(0.5));
    REQUIRE(cold(4) == Approx(0.0).margin(1e-15));
    // Warm-up as long as the training, or longer: no division by zero.
    const mox::schedule::warmup_cosine all{.warmup = 4, .steps = 4};
    REQUIRE(all(3) == 1.0);
    REQUIRE(all(4) == 1.0);
    REQUIRE(all(5) == Approx(0.1));
    const mox::schedule::warmup_cosine longer{.warmup = 8, .steps = 4};
    REQUIRE(longer(3) == 0.5);
    REQUIRE(std::isfinite(longer(9)));
    const mox::schedule::warmup_cosine flat{.warmup = 2, .steps = 10, .floor = 1.0};
    for (index_t i = 2; i < 20; ++i) REQUIRE(flat(i) == 1.0);
    REQUIRE(mox::schedule::warmup_cosine{}.floor == 0.1);
}

TEST_CASE("warm-up then constant", "[train][schedule]") {
    const mox::schedule::warmup_constant s{.warmup = 4};
    REQUIRE(s(0) == 0.25);
    REQUIRE(s(2) == 0.75);
    for (index_t i = 3; i < 100; ++i) REQUIRE(s(i) == 1.0);
    REQUIRE(mox::schedule::warmup_constant{}(0) == 1.0);
}

TEST_CASE("a cosine starts again, each time for longer", "[train][schedule]") {
    const mox::schedule::cosine_restarts s{.period = 10, .growth = 3, .floor = 0.2};
    for (const index_t start : {0, 10, 40, 130}) REQUIRE(s(start) == 1.0);
    REQUIRE(s(5) == Approx(0.6));
    REQUIRE(s(25) == Approx(0.6));
    REQUIRE(s(85) == Approx(0.6));
    REQUIRE(s(129) < 0.2003);
    for (index_t i = 10; i < 39; ++i) REQUIRE(s(i + 1) < s(i));
    const mox::schedule::cosine_restarts even{.period = 4, .growth = 1};
    REQUIRE(even(4'000'000'002) == Approx(0.5));
    REQUIRE(mox::schedule::cosine_restarts{}(150) == 1.0);
    const mox::schedule::cosine_restarts never{.period = 0};
    REQUIRE_THROWS_WITH(never(3), Catch::Matchers::Contains("'period' and 'growth' must be at least 1"));
}
