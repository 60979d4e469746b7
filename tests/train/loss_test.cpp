#include <mox/train/loss.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <mox/exec/thread_pool.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;
using mox::row_t;

// logsumexp(l) - l_target without the maximum trick; for moderate logits.
template <class T>
double plain(const values::matrix<T>& l, const std::vector<row_t>& targets) {
    double sum = 0;
    index_t count = 0;
    for (index_t t = 0; t < l.rows(); ++t) {
        const row_t target = targets[static_cast<std::size_t>(t)];
        if (target == mox::ignored_target) continue;
        double z = 0;
        for (index_t j = 0; j < l.cols(); ++j) z += std::exp(static_cast<double>(l(t, j)));
        sum += std::log(z) - static_cast<double>(l(t, target));
        ++count;
    }
    return count == 0 ? 0.0 : sum / static_cast<double>(count);
}

}  // namespace

TEMPLATE_TEST_CASE("cross entropy is the mean of logsumexp minus the target's logit", "[train][loss]", float,
                   double) {
    using T = TestType;
    const double bound = std::is_same_v<T, double> ? 1e-13 : 2e-6;
    for (const index_t classes : {1, 2, 7, 16, 33, 257}) {
        for (const index_t rows : {1, 3, 64, 65, 300}) {
            const auto l = values::normal<T>(rows, classes, 1, 2.0);
            auto targets = values::ids(rows, static_cast<std::uint32_t>(classes), 2);
            if (rows > 2) targets[1] = mox::ignored_target;
            values::matrix<T> d(rows, classes);
            const mox::matrix_view<const T> view(l);
            const T with = mox::cross_entropy<T>(view, targets, d);
            const T without = mox::cross_entropy<T>(view, targets);
            const double want = plain(l, targets);
            REQUIRE(std::abs(static_cast<double>(with) - want) <= bound * std::max(1.0, want));
            REQUIRE(std::abs(static_cast<double>(without) - want) <= bound * std::max(1.0, want));

            double worst = 0;
            const double count = static_cast<double>(rows - (rows > 2 ? 1 : 0));
            for (index_t t = 0; t < rows; ++t) {
                const row_t target = targets[static_cast<std::size_t>(t)];
                double z = 0;
                for (index_t j = 0; j < classes; ++j) z += std::exp(static_cast<double>(l(t, j)));
                for (index_t j = 0; j < classes; ++j) {
                    double g = (std::exp(static_cast<double>(l(t, j))) / z - (j == target ? 1 : 0)) / count;
                    if (target == mox::ignored_target) g = 0;
                    worst = std::max(worst, std::abs(static_cast<double>(d(t, j)) - g));
                }
            }
            REQUIRE(worst <= bound);
        }
    }
}

TEST_CASE("the gradient is that of central differences", "[train][loss]") {
    auto l = values::normal<double>(5, 9, 3);
    const std::vector<row_t> targets{0, 8, mox::ignored_target, 4, 4};
    values::matrix<double> d(5, 9);
    (void)mox::cross_entropy<double>(mox::matrix_view<const double>(l), targets, d);
    for (double& x : l.v) {
        const double kept = x, h = 1e-5;
        x = kept + h;
        const double up = mox::cross_entropy<double>(mox::matrix_view<const double>(l), targets);
        x = kept - h;
        const double down = mox::cross_entropy<double>(mox::matrix_view<const double>(l), targets);
        x = kept;
        REQUIRE(d.v[static_cast<std::size_t>(&x - l.v.data())] == Approx((up - down) / (2 * h)).margin(1e-9));
    }
}

TEST_CASE("ignored targets have no loss and no gradient", "[train][loss]") {
    const auto l = values::normal<float>(4, 6, 3);
    values::matrix<float> d(4, 6);
    for (float& x : d.v) x = 77;
    REQUIRE(mox::cross_entropy<float>(mox::matrix_view<const float>(l),
                                      std::vector<row_t>(4, mox::ignored_target), d) == 0.0f);
    for (const float x : d.v) REQUIRE(x == 0.0f);
    // A row that is ignored may hold anything.
    auto bad = l;
    bad(2, 3) = std::numeric_limits<float>::quiet_NaN();
    const std::vector<row_t> targets{1, 2, mox::ignored_target, 0};
    const float a = mox::cross_entropy<float>(mox::matrix_view<const float>(bad), targets, d);
    REQUIRE(a == mox::cross_entropy<float>(mox::matrix_view<const float>(l), targets));
    for (index_t j = 0; j < 6; ++j) REQUIRE(d(2, j) == 0.0f);
    // No rows at all.
    values::matrix<float> none(0, 6);
    REQUIRE(mox::cross_entropy<float>(mox::matrix_view<const float>(none), std::vector<row_t>{}) == 0.0f);
}

TEST_CASE("large logits do not overflow, NaN is not hidden", "[train][loss]") {
    values::matrix<float> l(1, 3);
    l(0, 0) = 1e30f;
    l(0, 1) = -1e30f;
    values::matrix<float> d(1, 3);
    const mox::matrix_view<const float> view(l);
    REQUIRE(mox::cross_entropy<float>(view, std::vector<row_t>{0}, d) == 0.0f);
    REQUIRE(d(0, 0) == 0.0f);
    REQUIRE(mox::cross_entropy<float>(view, std::vector<row_t>{1}, d) == Approx(2e30f));
    REQUIRE(d(0, 0) == 1.0f);
    REQUIRE(d(0, 1) == -1.0f);
    for (index_t j = 0; j < 3; ++j) {
        auto bad = l;
        bad(0, j) = std::numeric_limits<float>::quiet_NaN();
        INFO("NaN in column " << j);
        REQUIRE(std::isnan(
            mox::cross_entropy<float>(mox::matrix_view<const float>(bad), std::vector<row_t>{2}, d)));
        REQUIRE(
            std::isnan(mox::cross_entropy<float>(mox::matrix_view<const float>(bad), std::vector<row_t>{2})));
    }
}

TEST_CASE("views with a stride: nothing beside them is touched", "[train][loss]") {
    const auto l = values::normal<double>(3, 5, 3);
    values::matrix<double> wide(3, 9), d(3, 9), dense(3, 5);
    for (double& x : d.v) x = 5;
    for (index_t t = 0; t < 3; ++t) {
        for (index_t j = 0; j < 5; ++j) wide(t, 2 + j) = l(t, j);
    }
    const std::vector<row_t> targets{4, 0, 2};
    const double a = mox::cross_entropy<double>(mox::matrix_view<const double>(wide).middle_cols(2, 5),
                                                targets, mox::matrix_view<double>(d).middle_cols(2, 5));
    REQUIRE(a == mox::cross_entropy<double>(mox::matrix_view<const double>(l), targets, dense));
    for (index_t t = 0; t < 3; ++t) {
        for (index_t j = 0; j < 9; ++j) REQUIRE(d(t, j) == (j >= 2 && j < 7 ? dense(t, j - 2) : 5.0));
    }
}

TEST_CASE("wrong targets and shapes are refused", "[train][loss]") {
    const auto l = values::normal<float>(2, 4, 3);
    const mox::matrix_view<const float> view(l);
    values::matrix<float> rows(3, 4), cols(2, 3);
    const char* classes =
        "mox::cross_entropy: argument 'targets' must hold classes below the number of columns, or "
        "mox::ignored_target";
    REQUIRE_THROWS_WITH(mox::cross_entropy<float>(view, std::vector<row_t>{0, 4}), classes);
    REQUIRE_THROWS_WITH(mox::cross_entropy<float>(view, std::vector<row_t>{-2, 0}), classes);
    REQUIRE_THROWS_WITH(
        mox::cross_entropy<float>(view, std::vector<row_t>{0, 1, 2}),
        "mox::cross_entropy: argument 'targets' must have 2 elements, one per row of logits, got 3");
    REQUIRE_THROWS_WITH(mox::cross_entropy<float>(view, std::vector<row_t>{0, 1}, rows),
                        "mox::cross_entropy: argument 'dlogits' must have 2 rows, like logits, got 3");
    REQUIRE_THROWS_WITH(mox::cross_entropy<float>(view, std::vector<row_t>{0, 1}, cols),
                        "mox::cross_entropy: argument 'dlogits' must have 4 columns, like logits, got 3");
}

TEST_CASE("threads do not change the loss", "[train][loss]") {
    // More rows than 256 blocks of 64, so that blocks grow.
    const auto l = values::normal<float>(17000, 3, 3);
    const auto targets = values::ids(17000, 3, 1);
    values::matrix<float> a(17000, 3), b(17000, 3);
    mox::thread_pool pool(3);
    const mox::matrix_view<const float> view(l);
    const float serial = mox::cross_entropy<float>(view, targets, a);
    REQUIRE(serial == mox::cross_entropy<float>(view, targets, b, pool));
    REQUIRE(a == b);
    REQUIRE(static_cast<double>(serial) == Approx(plain(l, targets)).epsilon(1e-6));
}
