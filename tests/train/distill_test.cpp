#include <mox/train/distill.hpp>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using Catch::Matchers::Contains;
using mox_test::normal_numbers;

namespace {

constexpr index_t rows = 3, classes = 5;

template <class T>
matrix_view<const T> view(const std::vector<T>& v) {
    return {v.data(), rows, classes};
}
template <class T>
matrix_view<T> view(std::vector<T>& v) {
    return {v.data(), rows, classes};
}

// The formula, term by term.
double plain(const std::vector<double>& student, const std::vector<double>& teacher, double temperature,
             std::size_t width = classes) {
    double sum = 0;
    for (std::size_t t = 0; t < rows; ++t) {
        double zs = 0, zt = 0;
        for (std::size_t j = t * width; j < (t + 1) * width; ++j) {
            zs += std::exp(student[j] / temperature);
            zt += std::exp(teacher[j] / temperature);
        }
        for (std::size_t j = t * width; j < (t + 1) * width; ++j)
            sum -=
                std::exp(teacher[j] / temperature) / zt * std::log(std::exp(student[j] / temperature) / zs);
    }
    return temperature * temperature * sum / rows;
}

}  // namespace

TEST_CASE("distill: the formula at several temperatures, with and without a gradient", "[train][distill]") {
    const auto s = normal_numbers<double>(15, 3, 2), q = normal_numbers<double>(15, 4, 2);
    std::vector<double> d(15, 7.0);
    for (const double temperature : {0.5, 1.0, 3.0}) {
        const double loss = distill<double>(view(s), view(q), temperature, view(d));
        CHECK(loss == Approx(plain(s, q, temperature)).epsilon(1e-13));
        CHECK(distill<double>(view(s), view(q), temperature, matrix_view<double>{}) == loss);
        // Softmax sums to one: no logit gains what another does not lose.
        for (std::size_t t = 0; t < rows; ++t) {
            double sum = 0;
            for (std::size_t j = 0; j < classes; ++j) sum += d[t * classes + j];
            CHECK(sum == Approx(0).margin(1e-14));
        }
    }
}

TEST_CASE("distill: least, with no gradient, where the student agrees with the teacher", "[train][distill]") {
    const auto q = normal_numbers<double>(15, 5);
    auto s = q;
    std::vector<double> d(15);
    const double least = distill<double>(view(s), view(q), 2.0, view(d));
    for (const double v : d) CHECK(v == 0.0);
    s[4] += 0.3;
    CHECK(distill<double>(view(s), view(q), 2.0, view(d)) > least);
    // A constant added to a row changes nothing.
    auto shifted = s;
    for (std::size_t j = 0; j < classes; ++j) shifted[j] += 40;
    CHECK(distill<double>(view(shifted), view(q), 2.0, matrix_view<double>{}) ==
          Approx(distill<double>(view(s), view(q), 2.0, matrix_view<double>{})).epsilon(1e-13));
}

TEST_CASE("distill: large logits, float, and NaN", "[train][distill]") {
    std::vector<float> s(15, -1000.0f), q(15, 0.0f), d(15);
    for (std::size_t t = 0; t < rows; ++t) s[t * classes] = q[t * classes] = 1000;
    CHECK(distill<float>(view(s), view(q), 1.0, view(d)) == 0.0f);
    for (const float v : d) CHECK(v == 0.0f);
    const auto sd = normal_numbers<double>(15, 3), qd = normal_numbers<double>(15, 4);
    const std::vector<float> sf(sd.begin(), sd.end()), qf(qd.begin(), qd.end());
    // Fifteen terms of size one, each rounded a few times.
    CHECK(distill<float>(view(sf), view(qf), 1.7, view(d)) == Approx(plain(sd, qd, 1.7)).epsilon(1e-5));
    s[7] = std::numeric_limits<float>::quiet_NaN();
    CHECK(std::isnan(distill<float>(view(s), view(q), 1.0, view(d))));
}

TEST_CASE("distill: the gradient against differences, and nothing from no row", "[train][distill]") {
    auto s = normal_numbers<double>(15, 1);
    const auto q = normal_numbers<double>(15, 2);
    std::vector<double> d(15), unused(15);
    const auto loss = [&](std::vector<double>& to) {
        return distill<double>(matrix_view<const double>(s.data(), 3, 5),
                               matrix_view<const double>(q.data(), 3, 5), 1.7,
                               matrix_view<double>(to.data(), 3, 5));
    };
    loss(d);
    for (std::size_t i = 0; i < 15; ++i) {
        const double kept = s[i];
        s[i] = kept + 1e-5;
        const double up = loss(unused);
        s[i] = kept - 1e-5;
        const double down = loss(unused);
        s[i] = kept;
        CHECK(d[i] == Approx((up - down) / 2e-5).margin(1e-9));
    }
    CHECK(distill<double>({}, {}, 1.0, matrix_view<double>{}) == 0.0);
}

TEST_CASE("distill: says what does not fit", "[train][distill][error]") {
    std::vector<double> a(15), d(15);
    const auto call = [&](matrix_view<const double> teacher, double temperature, matrix_view<double> to) {
        return distill<double>(view(std::as_const(a)), teacher, temperature, to);
    };
    const matrix_view<const double> q{a.data(), rows, classes};
    CHECK_THROWS_WITH(call(q, 0.0, view(d)),
                      Contains("mox::distill: argument 'temperature' must be positive"));
    CHECK_THROWS_WITH(call(q, -1.0, view(d)), Contains("'temperature' must be positive"));
    CHECK_THROWS_WITH(call(q, NAN, view(d)), Contains("'temperature' must be positive"));
    CHECK_THROWS_WITH(call({a.data(), 2, classes}, 1.0, view(d)),
                      Contains("argument 'teacher' must have 3 rows, like student, got 2"));
    CHECK_THROWS_WITH(call({a.data(), rows, 4}, 1.0, view(d)),
                      Contains("argument 'teacher' must have 5 columns, like student, got 4"));
    CHECK_THROWS_WITH(call(q, 1.0, {d.data(), 2, classes}), Contains("argument 'dstudent' must have 3 rows"));
    CHECK_THROWS_WITH(call(q, 1.0, {d.data(), rows, 4}), Contains("argument 'dstudent' must have 5 columns"));
}

TEST_CASE("distill: more classes than a block, the largest logits in any of them", "[train][distill]") {
    for (const std::size_t width : {256u, 257u, 700u}) {
        CAPTURE(width);
        const auto n = static_cast<index_t>(width);
        auto s = normal_numbers<double>(rows * n, 3, 2), q = normal_numbers<double>(rows * n, 4, 2);
        s[width - 1] = q[0] = 30;
        const matrix_view<const double> student(s.data(), rows, n), teacher(q.data(), rows, n);
        std::vector<double> d(s.size());
        const double loss = distill<double>(student, teacher, 3.0, matrix_view<double>(d.data(), rows, n));
        CHECK(loss == Approx(plain(s, q, 3.0, width)).epsilon(1e-12));
        for (const std::size_t at : {std::size_t{0}, width / 2, width - 1, width, 3 * width - 1}) {
            auto high = s, low = s;
            high[at] += 1e-5;
            low[at] -= 1e-5;
            const double slope = (plain(high, q, 3.0, width) - plain(low, q, 3.0, width)) / 2e-5;
            CHECK(d[at] == Approx(slope).margin(1e-8));
        }
    }
}
