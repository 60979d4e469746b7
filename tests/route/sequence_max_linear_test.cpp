#include <mox/route/sequence_max_linear.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <mox/core/buffer.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

using layout = kernel::panel_layout<double>;

// R is the identity, so that rows are their own scores.
struct identity_scorer {
    static constexpr index_t width = 3;
    buffer<double> memory{width * layout::padded(width)};
    kernel::panel_view<double> r{memory.data(), width, layout::padded(width)};

    identity_scorer() {
        for (index_t k = 0; k < width; ++k) {
            for (index_t e = 0; e < layout::padded(width); ++e) r(k, e) = k == e;
        }
    }
};

}  // namespace

TEST_CASE("sequence_max_linear: every token of a sequence has its largest scores, first on ties",
          "[route][sequence_max_linear]") {
    const identity_scorer s;
    // Sequences of 2, 0, 3 and 1 tokens.
    const std::vector<row_t> offsets{0, 2, 2, 5, 6};
    const std::vector<double> x{1, -5, 2, 0, -4, 2, /**/ 7, 1, 1, 7, 3, -1, 6, 3, 1, /**/ -1, -2, -3};
    std::vector<double> logits(18);
    std::vector<row_t> best(12, 99);
    const matrix_view<const double> xs(x.data(), 6, 3);
    route::sequence_max_linear::forward<double>({}, s.r, xs, offsets.data(), 4,
                                                matrix_view<double>(logits.data(), 6, 3), best.data());
    CHECK(logits == std::vector<double>{1, -4, 2, 1, -4, 2, 7, 3, 1, 7, 3, 1, 7, 3, 1, -1, -2, -3});
    // An empty sequence has no maximum.
    CHECK(best == std::vector<row_t>{0, 1, 0, 99, 99, 99, 2, 3, 2, 5, 5, 5});

    // The gradient of all tokens of a sequence goes to the token of the maximum.
    std::vector<double> dl{1, 2, 3, 10, 20, 30, /**/ 1, 1, 1, 2, 2, 2, 4, 4, 4, /**/ 5, 6, 7};
    std::vector<double> dx(18, 0.5);
    buffer<double> gradient(3 * layout::padded(3));
    const kernel::panel_view<double> dr(gradient.data(), 3, layout::padded(3));
    route::sequence_max_linear::backward<double>({}, s.r, dr, xs, offsets.data(), 4, best.data(),
                                                 matrix_view<double>(dl.data(), 6, 3),
                                                 matrix_view<double>(dx.data(), 6, 3), false, true);
    const std::vector<double> dm{11, 0, 33, 0, 22, 0, 7, 0, 7, 0, 7, 0, 0, 0, 0, 5, 6, 7};
    CHECK(dl == dm);
    for (std::size_t i = 0; i < 18; ++i) CHECK(dx[i] == 0.5 + dm[i]);
    for (index_t k = 0; k < 3; ++k) {
        for (index_t e = 0; e < 3; ++e) {
            double sum = 0;
            for (index_t t = 0; t < 6; ++t) sum += xs(t, k) * dm[static_cast<std::size_t>(t * 3 + e)];
            CHECK(dr(k, e) == sum);
        }
    }
}

TEST_CASE("sequence_max_linear: a NaN is not hidden by other tokens", "[route][sequence_max_linear]") {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    std::vector<double> scores{1, 2, 3, nan, nan, nan, 4, 5, 6};
    const std::vector<row_t> offsets{0, 3};
    std::vector<double> logits(9);
    std::vector<row_t> best(3);
    const identity_scorer s;
    route::sequence_max_linear::forward<double>({}, s.r, {scores.data(), 3, 3}, offsets.data(), 1,
                                                matrix_view<double>(logits.data(), 3, 3), best.data());
    for (const double l : logits) CHECK(std::isnan(l));
    CHECK(best == std::vector<row_t>{1, 1, 1});
}
