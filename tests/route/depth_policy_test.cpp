#include <mox/route/depth_policy.hpp>

#include <cmath>

#include "../support/catch.hpp"

using namespace mox;

TEST_CASE("depth policy: how many tokens pass", "[route][depth_policy]") {
    CHECK(keep_permille<500>::kept(0) == 0);
    CHECK(keep_permille<500>::kept(1) == 1);
    CHECK(keep_permille<500>::kept(2) == 1);
    CHECK(keep_permille<500>::kept(7) == 3);
    CHECK(keep_permille<125>::kept(7) == 1);
    CHECK(keep_permille<125>::kept(16) == 2);
    CHECK(keep_permille<125>::kept(17) == 2);
    CHECK(keep_permille<1>::kept(1999) == 1);
    CHECK(keep_permille<1>::kept(2000) == 2);
    for (index_t n = 0; n < 50; ++n) CHECK(keep_permille<1000>::kept(n) == n);
    static_assert(keep_permille<250>::share == 0.25);
}

namespace {

template <class Weighting>
void check_derivative() {
    for (double r = -4; r <= 4; r += 0.37) {
        const double numeric = (Weighting::value(r + 1e-6) - Weighting::value(r - 1e-6)) / 2e-6;
        CHECK(Weighting::derivative(r) == Approx(numeric).margin(1e-8));
    }
}

}  // namespace

TEST_CASE("depth policy: weightings and their derivatives", "[route][depth_policy]") {
    CHECK(weighting::sigmoid::value(0.0) == 0.5);
    CHECK(weighting::sigmoid::value(2.0) == Approx(1 / (1 + std::exp(-2.0))).epsilon(1e-15));
    CHECK(weighting::sigmoid::value(-1000.0) == 0.0);
    CHECK(weighting::sigmoid::value(1000.0) == 1.0);
    CHECK(weighting::sigmoid::derivative(-1000.0) == 0.0);
    CHECK(weighting::identity::value(-1.25) == -1.25);
    CHECK(weighting::tanh::value(0.5) == std::tanh(0.5));
    check_derivative<weighting::sigmoid>();
    check_derivative<weighting::identity>();
    check_derivative<weighting::tanh>();
    static_assert(!weighting::none::weighted && weighting::sigmoid::weighted);
}

TEST_CASE("depth policy: an annealed capacity moves in a straight line", "[route][depth_policy]") {
    using falling = keep_annealed<1000, 250>;
    CHECK(falling::kept(100, 0) == 100);
    CHECK(falling::kept(100, 1.0 / 3) == 75);
    CHECK(falling::kept(100, 0.5) == 62);  // 62.5 %, floored
    CHECK(falling::kept(100, 1) == 25);
    CHECK(falling::kept(100) == 25);
    // Beyond the ends it stays at them; a sequence keeps at least one token, none of none.
    CHECK(falling::kept(100, -3) == 100);
    CHECK(falling::kept(100, 7) == 25);
    CHECK(falling::kept(1, 1) == 1);
    CHECK(falling::kept(0, 0) == 0);
    using rising = keep_annealed<125, 500>;
    CHECK(rising::kept(1000, 0) == 125);
    CHECK(rising::kept(1000, 0.2) == 200);
    CHECK(rising::kept(1000, 1) == 500);
    static_assert(rising::share == 0.5);
    // The same numbers as a fixed capacity at the end.
    for (index_t n = 0; n < 50; ++n) CHECK(rising::kept(n, 1) == keep_permille<500>::kept(n));
}
