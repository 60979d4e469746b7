#include <mox/transform/expert_merging.hpp>

#include <cmath>
#include <string>
#include <vector>

#include <mox/train/distill.hpp>

#include "../support/catch.hpp"
#include "../support/golden.hpp"
#include "../support/layers.hpp"

using namespace mox;
using Catch::Matchers::Contains;
using mox_test::distance;
using mox_test::normal_numbers;

namespace {

// One linear map y = x W' with merged weights, as the cases have it.
void check_case(const std::string& name, double start, double temperature) {
    const mox_test::golden g(name);
    const auto base = g.tensor("param.W"), tasks = g.tensor("param.task_vector"), raw = g.tensor("param.raw");
    const auto x = g.tensor("in.x"), teacher = g.tensor("in.teacher");
    const auto rows = static_cast<index_t>(x.shape[0]), in = static_cast<index_t>(x.shape[1]),
               out = static_cast<index_t>(base.shape[0]);
    merge_coefficients<double> m(static_cast<index_t>(raw.shape[0]), static_cast<index_t>(raw.shape[1]),
                                 start);
    std::copy(raw.values.begin(), raw.values.end(), m.raw().begin());
    std::vector<double> coefficients, merged(base.values.size());
    for (index_t k = 0; k < m.experts(); ++k) {
        for (index_t c = 0; c < m.chunks(); ++c) coefficients.push_back(m.value(k, c));
    }
    CHECK(distance(coefficients, g.tensor("out.coeff").values) < 1e-13);
    m.merge(base.values, tasks.values, merged);
    CHECK(distance(merged, g.tensor("out.W_merged").values) < 1e-13);

    std::vector<double> y(static_cast<std::size_t>(rows * out), 0.0);
    for (index_t t = 0; t < rows; ++t) {
        for (index_t o = 0; o < out; ++o) {
            for (index_t i = 0; i < in; ++i)
                y[static_cast<std::size_t>(t * out + o)] += x.values[static_cast<std::size_t>(t * in + i)] *
                                                            merged[static_cast<std::size_t>(o * in + i)];
        }
    }
    CHECK(distance(y, g.tensor("out.y").values) < 1e-13);
    const auto check_gradient = [&](const std::vector<double>& dy, const std::string& key) {
        std::vector<double> dw(merged.size(), 0.0), draw(m.raw().size());
        for (index_t t = 0; t < rows; ++t) {
            for (index_t o = 0; o < out; ++o) {
                for (index_t i = 0; i < in; ++i)
                    dw[static_cast<std::size_t>(o * in + i)] +=
                        dy[static_cast<std::size_t>(t * out + o)] *
                        x.values[static_cast<std::size_t>(t * in + i)];
            }
        }
        m.gradient(dw, tasks.values, draw);
        INFO(key);
        CHECK(distance(draw, g.tensor(key).values) < 1e-13);
        m.gradient(dw, tasks.values, draw, true);
        for (double& v : draw) v /= 2;
        CHECK(distance(draw, g.tensor(key).values) < 1e-13);
    };
    check_gradient(g.tensor("in.dy").values, "grad.param.raw");

    std::vector<double> dy(y.size());
    const double loss = distill<double>(matrix_view<const double>(y.data(), rows, out),
                                        matrix_view<const double>(teacher.values.data(), rows, out),
                                        temperature, matrix_view<double>(dy.data(), rows, out));
    CHECK(loss == Approx(g.tensor("loss.logit").values.at(0)).epsilon(1e-13));
    check_gradient(dy, "grad_logit.param.raw");

    CHECK(m.penalty() == Approx(g.tensor("loss.reg").values.at(0)).epsilon(1e-13));
    std::vector<double> draw(m.raw().size(), 0.0);
    m.penalty_gradient(1.0, draw);
    CHECK(distance(draw, g.tensor("grad_reg.param.raw").values) < 1e-13);
}

}  // namespace

TEST_CASE("golden: expert merging", "[golden][transform]") {
    check_case("expertmerging-layer", 0.1, 2);
    check_case("expertmerging-chunk", 0.3, 1);
}

TEST_CASE("merge_coefficients: from the base to an expert, linearly", "[transform][expert_merging]") {
    const auto base = normal_numbers<double>(20, 1), task = normal_numbers<double>(20, 2);
    const auto at = [&](double lambda) {
        std::vector<double> merged(20);
        merge_coefficients<double>(1, 1, lambda).merge(base, task, merged);
        return merged;
    };
    for (std::size_t i = 0; i < 20; ++i) {
        CHECK(at(1e-15)[i] == Approx(base[i]));
        CHECK(at(1 - 1e-15)[i] == Approx(base[i] + task[i]));
        CHECK(at(0.5)[i] == Approx((at(0.25)[i] + at(0.75)[i]) / 2));
    }
    // More chunks than values: the last ones are empty.
    merge_coefficients<double> many(1, 30, 0.25);
    std::vector<double> merged(20), draw(30);
    many.merge(base, task, merged);
    CHECK(distance(merged, at(0.25)) < 1e-14);
    many.gradient(task, task, draw);
    for (std::size_t c = 0; c < 30; ++c) CHECK((draw[c] > 0) == (c < 20));
    std::vector<double> none;
    many.merge(none, none, none);
}

TEST_CASE("merge_coefficients: at the start nothing pulls", "[transform][expert_merging]") {
    const merge_coefficients<double> m(3, 2, 0.5);
    CHECK(m.penalty() == 0.0);
    std::vector<double> draw(6, 1.0);
    m.penalty_gradient(7.0, draw);
    CHECK(draw == std::vector<double>(6, 1.0));
}

TEST_CASE("merge_coefficients: bad input is refused", "[transform][expert_merging]") {
    CHECK_THROWS_WITH(merge_coefficients<double>(0, 1, 0.5), Contains("must be positive"));
    CHECK_THROWS_WITH(merge_coefficients<double>(2, 1, 1.0), Contains("'start' must lie in (0, 1)"));
    const merge_coefficients<double> m(2, 1, 0.5);
    const std::vector<double> base(4), tasks(7);
    std::vector<double> to(4);
    CHECK_THROWS_WITH(m.merge(base, tasks, to), Contains("argument 'tasks' must have 8 elements"));
}

TEST_CASE("merge_coefficients: without chunks nothing is trained", "[transform][expert_merging]") {
    mox::merge_coefficients<double> fixed(2, 0, 0.25);
    CHECK(fixed.raw().empty());
    CHECK(fixed.penalty() == 0);
    const std::vector<double> base{1, 2, 3}, tasks{4, 0, 8, 0, 4, 4};
    std::vector<double> merged(3);
    fixed.merge(base, tasks, merged);
    CHECK(merged == std::vector<double>{2, 3, 6});
    fixed.gradient(base, tasks, {});
    fixed.penalty_gradient(1.0, {});
}

TEST_CASE("merge_coefficients: at any start the penalty has no gradient, and other places do not exist",
          "[transform][expert_merging]") {
    const auto check = [](auto zero) {
        using T = decltype(zero);
        for (const double start : {0.05, 0.1, 0.2, 0.3, 0.7, 0.95}) {
            merge_coefficients<T> m(2, 3, start);
            std::vector<T> draw(6, T(0));
            m.penalty_gradient(T(1), draw);
            CHECK(draw == std::vector<T>(6, T(0)));
        }
    };
    check(0.0);
    check(0.0f);
    const merge_coefficients<double> m(2, 3, 0.1), fixed(2, 0, 0.1);
    CHECK(fixed.value(1, 0) == 0.1);
    CHECK_THROWS_WITH(m.value(2, 0), Contains("argument 'expert' must lie in [0, 2)"));
    CHECK_THROWS_WITH(m.value(0, 3), Contains("argument 'chunk' must lie in [0, 3)"));
    CHECK_THROWS_WITH(fixed.value(0, 1), Contains("argument 'chunk' must lie in [0, 1)"));
    CHECK_THROWS_WITH(m.value(-1, 0), Contains("'expert'"));
}
