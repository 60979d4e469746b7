#include <mox/route/depth_sampling.hpp>

#include <cmath>

#include "../support/catch.hpp"

using namespace mox;

TEST_CASE("depth sampling: the loss of a logit is a binary cross-entropy", "[route][depth_sampling]") {
    using sampling::detail::binary_cross_entropy;
    using sampling::detail::binary_cross_entropy_derivative;
    for (double r = -5; r <= 5; r += 0.41) {
        const double p = 1 / (1 + std::exp(-r));
        CHECK(binary_cross_entropy(r, true) == Approx(-std::log(p)).epsilon(1e-12));
        CHECK(binary_cross_entropy(r, false) == Approx(-std::log(1 - p)).epsilon(1e-12));
        for (const bool selected : {true, false}) {
            const double numeric =
                (binary_cross_entropy(r + 1e-6, selected) - binary_cross_entropy(r - 1e-6, selected)) / 2e-6;
            CHECK(binary_cross_entropy_derivative(r, selected) == Approx(numeric).margin(1e-8));
        }
    }
    // Large logits: no overflow.
    CHECK(binary_cross_entropy(1000.0, false) == 1000.0);
    CHECK(binary_cross_entropy(-1000.0, true) == 1000.0);
    CHECK(binary_cross_entropy(1000.0, true) == 0.0);
    CHECK(binary_cross_entropy(-1000.0f, false) == 0.0f);
}

TEST_CASE("depth sampling: who decides outside training, and who learns to", "[route][depth_sampling]") {
    static_assert(sampling::auxiliary_loss<>::causal && sampling::auxiliary_loss<>::trained);
    static_assert(sampling::threshold::causal && !sampling::threshold::trained);
    static_assert(!sampling::whole_sequence::causal && !sampling::whole_sequence::trained);
    static_assert(sampling::predictor<>::causal && sampling::predictor<>::trained);
    static_assert(sampling::auxiliary_loss<>::reads_score && !sampling::predictor<>::reads_score);
    CHECK(sampling::auxiliary_loss<>::scale == 0.01);
    CHECK(sampling::predictor<8>::flops(16) == 2.0 * 8 * 17);
}
