#include <mox/train/ranking_loss.hpp>

#include <cmath>
#include <vector>

#include "../support/catch.hpp"

using namespace mox;
using Catch::Matchers::Contains;

namespace {

template <class T>
T loss_of(const std::vector<T>& r, const std::vector<row_t>& ranks, std::vector<T>* gradient = nullptr) {
    const auto n = static_cast<index_t>(r.size());
    return pairwise_ranking_loss(matrix_view<const T>(r.data(), n, 1), ranks,
                                 gradient ? matrix_view<T>(gradient->data(), n, 1) : matrix_view<T>());
}

}  // namespace

TEST_CASE("pairwise_ranking_loss: the mean over pairs of different rank", "[train][ranking]") {
    const auto cost = [](double better, double worse) { return std::log(1 + std::exp(worse - better)); };
    CHECK(loss_of<double>({0.3, -0.2}, {0, 1}) == Approx(cost(0.3, -0.2)).epsilon(1e-14));
    CHECK(loss_of<double>({0.3, -0.2}, {7, -1}) == Approx(cost(-0.2, 0.3)).epsilon(1e-14));
    // Rows 0 and 2 are of one rank: two pairs remain.
    CHECK(loss_of<double>({0.3, -0.2, 1.5}, {1, 0, 1}) ==
          Approx((cost(-0.2, 0.3) + cost(-0.2, 1.5)) / 2).epsilon(1e-14));
    CHECK(loss_of<double>({2, 2, 2}, {0, 1, 2}) == Approx(std::log(2.0)).epsilon(1e-14));
}

TEST_CASE("pairwise_ranking_loss: gradients are difference quotients and sum to zero", "[train][ranking]") {
    std::vector<double> r{0.4, -1.2, 0.9, 0.1, 2.3, -0.6}, gradient(6, 99);
    const std::vector<row_t> ranks{2, 0, 1, 0, 3, 1};
    const double loss = loss_of(r, ranks, &gradient);
    CHECK(loss == loss_of(r, ranks));
    double sum = 0;
    for (std::size_t i = 0; i < 6; ++i) {
        const double kept = r[i], step = 1e-5;
        r[i] = kept + step;
        const double up = loss_of(r, ranks);
        r[i] = kept - step;
        const double down = loss_of(r, ranks);
        r[i] = kept;
        CHECK(std::abs((up - down) / (2 * step) - gradient[i]) < 1e-9);
        CHECK(gradient[i] != 0.0);
        sum += gradient[i];
    }
    CHECK(std::abs(sum) < 1e-15);
}

TEST_CASE("pairwise_ranking_loss: far apart rewards neither overflow nor vanish", "[train][ranking]") {
    std::vector<float> gradient(2);
    CHECK(loss_of<float>({-1000, 1000}, {0, 1}, &gradient) == 2000.0f);
    CHECK(gradient == std::vector<float>{-1, 1});
    CHECK(loss_of<float>({1000, -1000}, {0, 1}, &gradient) == 0.0f);
    CHECK(gradient == std::vector<float>{0, 0});
    CHECK(loss_of<float>({40, 0}, {0, 1}) > 0.0f);
}

TEST_CASE("pairwise_ranking_loss: without pairs, and wrong shapes", "[train][ranking]") {
    std::vector<double> gradient(3, 99);
    CHECK(loss_of<double>({1, 2, 3}, {4, 4, 4}, &gradient) == 0.0);
    CHECK(gradient == std::vector<double>{0, 0, 0});
    CHECK(loss_of<double>({}, {}) == 0.0);
    CHECK_THROWS_WITH(loss_of<double>({1, 2}, {0}), Contains("'ranks' must have 2 elements"));
    std::vector<double> r(6);
    const matrix_view<double> wide(r.data(), 3, 2), column(r.data(), 3, 1), short_column(r.data(), 2, 1);
    const std::vector<row_t> ranks{0, 1, 2};
    CHECK_THROWS_WITH(pairwise_ranking_loss(wide, ranks), Contains("'rewards' must have 1 columns"));
    CHECK_THROWS_WITH(pairwise_ranking_loss(column, ranks, short_column),
                      Contains("'drewards' must have 3 rows, like rewards, got 2"));
    CHECK_THROWS_WITH(pairwise_ranking_loss(column, ranks, wide),
                      Contains("'drewards' must have 1 columns, like rewards, got 2"));
}
