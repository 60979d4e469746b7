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

TEST_CASE("depth policy: the auxiliary loss is a binary cross-entropy", "[route][depth_policy]") {
    using loss = sampling::auxiliary_loss<coefficient{0.5}>;
    for (double r = -5; r <= 5; r += 0.41) {
        const double p = 1 / (1 + std::exp(-r));
        CHECK(loss::value(r, true) == Approx(-0.5 * std::log(p)).epsilon(1e-12));
        CHECK(loss::value(r, false) == Approx(-0.5 * std::log(1 - p)).epsilon(1e-12));
        for (const bool selected : {true, false}) {
            const double numeric = (loss::value(r + 1e-6, selected) - loss::value(r - 1e-6, selected)) / 2e-6;
            CHECK(loss::derivative(r, selected) == Approx(numeric).margin(1e-8));
        }
    }
    // Large scores: no overflow.
    CHECK(loss::value(1000.0, false) == 500.0);
    CHECK(loss::value(-1000.0, true) == 500.0);
    CHECK(loss::value(1000.0, true) == 0.0);
    CHECK(loss::value(-1000.0f, false) == 0.0f);
    CHECK(sampling::auxiliary_loss<>::value(0.0, true) == Approx(0.01 * std::log(2.0)).epsilon(1e-15));
    static_assert(loss::causal && !sampling::whole_sequence::causal);
    CHECK(sampling::whole_sequence::value(3.0, true) == 0.0);
    CHECK(sampling::whole_sequence::derivative(3.0, false) == 0.0);
}
