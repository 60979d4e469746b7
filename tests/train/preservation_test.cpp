#include <mox/train/preservation.hpp>

#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using Catch::Matchers::Contains;
using mox_test::normal_numbers;

TEST_CASE("preservation_loss: the squared way from the start, and its gradient", "[train][preservation]") {
    const std::vector<double> start{1, 2, 3}, now{1, 4, 2};
    std::vector<double> d{10, 10, 10};
    CHECK(preservation_loss<double>(now, start, 0.5, d) == 2.5);
    CHECK(d == std::vector<double>{10, 12, 9});
    CHECK(preservation_loss<double>(start, start, 0.5) == 0);
    CHECK_THROWS_WITH(preservation_loss<double>(now, std::span<const double>(start).first(2), 1),
                      Contains("'start' must have 3 elements"));
    // A whole network.
    using net = linear<3, 2>;
    const params<net> before{init::standard, 1};
    params<net> after = before, grads;
    auto w = after.read("weight");
    w[4] += 0.5f;
    after.write("weight", w);
    CHECK(preservation_loss<float>(std::as_const(after).flat(), before.flat(), 2, grads.flat()) ==
          Approx(0.5));
    CHECK(grads.read("weight")[4] == Approx(2));
    CHECK(grads.read("weight")[3] == 0);
}

TEST_CASE("mean_squared_error: value, and gradient against differences", "[train][preservation]") {
    auto y = normal_numbers<double>(6, 1);
    const auto target = normal_numbers<double>(6, 2);
    std::vector<double> d(6);
    const auto loss = [&](matrix_view<double> dy) {
        return mean_squared_error<double>(matrix_view<const double>(y.data(), 2, 3),
                                          matrix_view<const double>(target.data(), 2, 3), dy);
    };
    double sum = 0;
    for (std::size_t i = 0; i < 6; ++i) sum += (y[i] - target[i]) * (y[i] - target[i]);
    CHECK(loss(matrix_view<double>(d.data(), 2, 3)) == Approx(sum / 6));
    for (std::size_t i = 0; i < 6; ++i) {
        y[i] += 1e-5;
        const double high = loss({});
        y[i] -= 2e-5;
        const double low = loss({});
        y[i] += 1e-5;
        CHECK(d[i] == Approx((high - low) / 2e-5).epsilon(1e-7));
    }
    CHECK(mean_squared_error<double>(matrix_view<const double>(y.data(), 0, 3), {y.data(), 0, 3}) == 0);
    CHECK_THROWS_WITH(mean_squared_error<double>(matrix_view<const double>(y.data(), 2, 3), {y.data(), 1, 3}),
                      Contains("'target' must have 2 rows"));
}
