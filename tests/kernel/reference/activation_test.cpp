#include <mox/kernel/reference/activation.hpp>

#include <cmath>

#include "../../support/catch.hpp"

namespace plain = mox::kernel::reference;

namespace {

// Derivatives against central differences in extended precision, away from 0, where two of them have a kink.
template <class Act>
void check_slope() {
    for (long double a = -5.03L; a < 5; a += 0.1L) {
        const long double h = 1e-6L, slope = (Act::value(a + h) - Act::value(a - h)) / (2 * h);
        CHECK(static_cast<double>(Act::derivative(a)) == Approx(static_cast<double>(slope)).margin(1e-9));
    }
}

}  // namespace

TEST_CASE("plain activations: derivatives against differences", "[kernel][reference]") {
    check_slope<plain::identity>();
    check_slope<plain::relu>();
    check_slope<plain::relu_squared>();
    check_slope<plain::silu>();
    check_slope<plain::gelu>();
    check_slope<plain::gelu_tanh>();
}

TEST_CASE("plain activations: known values", "[kernel][reference]") {
    CHECK(plain::relu::value(-2.0) == 0.0);
    CHECK(plain::relu::value(3.0) == 3.0);
    CHECK(plain::relu::derivative(0.0) == 0.0);
    CHECK(plain::relu_squared::value(3.0) == 9.0);
    CHECK(plain::silu::value(std::log(3.0)) == Approx(0.75 * std::log(3.0)).epsilon(1e-15));
    // The normal distribution function at 1, and the approximation that differs in the fourth digit.
    CHECK(plain::gelu::value(1.0) == Approx(0.8413447460685429).epsilon(1e-15));
    CHECK(plain::gelu_tanh::value(1.0) == Approx(0.8411919906082768).epsilon(1e-14));
    CHECK(plain::gelu::value(-40.0) == 0.0);
}
