#include <mox/route/gate.hpp>

#include <cmath>
#include <vector>

#include <mox/core/random.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

// One router row: logits, softmax and choices.
struct router {
    std::vector<double> logits, probability;
    std::vector<row_t> chosen;
    index_t experts;

    route::router_view<double> view() {
        const auto outputs = static_cast<index_t>(logits.size());
        double largest = logits[0], sum = 0;
        for (double l : logits) largest = std::max(largest, l);
        for (double l : logits) sum += std::exp(l - largest);
        probability.clear();
        for (double l : logits) probability.push_back(std::exp(l - largest) / sum);
        route::router_view<double> r;
        r.logits = matrix_view<const double>(logits.data(), 1, outputs);
        r.probability = matrix_view<const double>(probability.data(), 1, outputs);
        r.chosen = chosen.data();
        r.experts = experts;
        r.slots = static_cast<index_t>(chosen.size());
        return r;
    }
    template <class Gate>
    std::vector<double> gates() {
        std::vector<double> g(chosen.size(), -1);
        Gate::forward(view(), 0, g.data());
        return g;
    }
};

// Gradient by the logits of sum(gate * direction), through the gate's own backward and the softmax.
template <class Gate>
std::vector<double> analytic(router r, const std::vector<double>& direction) {
    const auto v = r.view();
    const std::vector<double> g = r.template gates<Gate>();
    std::vector<double> dlogits(r.logits.size(), 0), dp(r.logits.size(), 0);
    Gate::template backward<double>(v, 0, g.data(), direction.data(), dlogits.data(), dp.data());
    double mean = 0;
    for (std::size_t i = 0; i < dp.size(); ++i) mean += dp[i] * r.probability[i];
    for (std::size_t i = 0; i < dp.size(); ++i) dlogits[i] += r.probability[i] * (dp[i] - mean);
    return dlogits;
}

template <class Gate>
void check_gradient(router r, const std::vector<double>& direction) {
    const std::vector<double> d = analytic<Gate>(r, direction);
    for (std::size_t i = 0; i < r.logits.size(); ++i) {
        const auto at = [&](double shift) {
            router moved = r;
            moved.logits[i] += shift;
            const auto g = moved.template gates<Gate>();
            double sum = 0;
            for (std::size_t j = 0; j < g.size(); ++j) sum += g[j] * direction[j];
            return sum;
        };
        CHECK(d[i] == Approx((at(1e-5) - at(-1e-5)) / 2e-5).margin(1e-9));
    }
}

}  // namespace

TEST_CASE("gate: renormalised weights are the softmax over the chosen", "[route][gate]") {
    router r{{0.5, -1.0, 2.0, 0.25}, {}, {2, 0}, 4};
    const auto g = r.gates<gate::renormalised>();
    const double a = std::exp(2.0), b = std::exp(0.5);
    CHECK(g[0] == Approx(a / (a + b)).epsilon(1e-14));
    CHECK(g[1] == Approx(b / (a + b)).epsilon(1e-14));
    CHECK(router{{3, 7}, {}, {1}, 2}.gates<gate::renormalised>() == std::vector<double>{1.0});
    // Large logits must not overflow.
    const auto large = router{{1000, 999}, {}, {0, 1}, 2}.gates<gate::renormalised>();
    CHECK(large[0] + large[1] == Approx(1.0).epsilon(1e-14));
    CHECK(large[0] == Approx(1 / (1 + std::exp(-1.0))).epsilon(1e-14));
}

TEST_CASE("gate: renormalised weights of true experts sum to one, null experts get zero", "[route][gate]") {
    const random_stream numbers(5, 5);
    for (std::uint64_t trial = 0; trial < 50; ++trial) {
        router r{{}, {}, {}, 4};
        for (std::uint64_t i = 0; i < 6; ++i) r.logits.push_back(3 * numbers.normal(trial * 6 + i));
        const auto first = static_cast<row_t>(trial % 6);
        r.chosen = {first, static_cast<row_t>((first + 1) % 6), static_cast<row_t>((first + 3) % 6)};
        const auto g = r.gates<gate::renormalised>();
        double sum = 0;
        for (std::size_t j = 0; j < 3; ++j) {
            if (r.chosen[j] >= 4)
                CHECK(g[j] == 0.0);
            else
                CHECK(g[j] > 0.0);
            sum += g[j];
        }
        CHECK(sum == Approx(1.0).epsilon(1e-14));
        // A constant on all null logits shifts cost, never the weights of the others.
        router shifted = r;
        shifted.logits[4] += 1.75;
        shifted.logits[5] += 1.75;
        CHECK(shifted.gates<gate::renormalised>() == g);
    }
}

TEST_CASE("gate: a token that chose null experts only has no weights and no gradient", "[route][gate]") {
    router r{{0.5, -1.0, 2.0, 0.25}, {}, {2, 3}, 2};
    CHECK(r.gates<gate::renormalised>() == std::vector<double>{0, 0});
    CHECK(r.gates<gate::softmax>() == std::vector<double>{0, 0});
    CHECK(analytic<gate::renormalised>(r, {1, 2}) == std::vector<double>(4, 0.0));
    CHECK(analytic<gate::softmax>(r, {1, 2}) == std::vector<double>(4, 0.0));
}

TEST_CASE("gate: softmax keeps the probabilities undivided", "[route][gate]") {
    router r{{0.5, -1.0, 2.0, 0.25}, {}, {2, 0, 3}, 3};
    const auto g = r.gates<gate::softmax>();
    double sum = 0;
    for (double l : r.logits) sum += std::exp(l);
    CHECK(g[0] == Approx(std::exp(2.0) / sum).epsilon(1e-14));
    CHECK(g[1] == Approx(std::exp(0.5) / sum).epsilon(1e-14));
    CHECK(g[2] == 0.0);
    static_assert(gate::softmax::needs_probability && !gate::renormalised::needs_probability);
}

TEST_CASE("gate: gradients against central differences", "[route][gate]") {
    const router plain{{0.5, -1.0, 2.0, 0.25, 1.1}, {}, {2, 4, 0}, 5};
    const router nulls{{0.5, -1.0, 2.0, 0.25, 1.1}, {}, {2, 4, 0}, 4};
    const std::vector<double> direction{0.7, -1.3, 0.4};
    check_gradient<gate::renormalised>(plain, direction);
    check_gradient<gate::renormalised>(nulls, direction);
    check_gradient<gate::softmax>(plain, direction);
    check_gradient<gate::softmax>(nulls, direction);
    // One expert left: weight 1 whatever the logits.
    CHECK(analytic<gate::renormalised>({{1, 2}, {}, {1}, 2}, {5}) == std::vector<double>{0, 0});
}
