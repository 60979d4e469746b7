#include <mox/train/galore.hpp>

#include <limits>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using mox_test::distance;
using mox_test::normal_numbers;
using numbers = std::vector<double>;

namespace {

// a (rows x rank) b (rank x cols)
numbers product(const numbers& a, const numbers& b, std::size_t rows, std::size_t rank, std::size_t cols) {
    numbers c(rows * cols, 0.0);
    for (std::size_t i = 0; i < rows; ++i) {
        for (std::size_t k = 0; k < rank; ++k) {
            for (std::size_t j = 0; j < cols; ++j) c[i * cols + j] += a[i * rank + k] * b[k * cols + j];
        }
    }
    return c;
}

numbers there_and_back(galore<double>& g, const numbers& gradient) {
    numbers low(static_cast<std::size_t>(g.low_size())), back(gradient.size());
    g.project(gradient, low);
    g.expand(low, back);
    return back;
}

}  // namespace

TEST_CASE("galore: a gradient of low rank comes back whole, wide or tall", "[train][galore]") {
    for (const auto& [rows, cols] : {std::pair<index_t, index_t>{6, 11}, {11, 6}, {7, 7}, {1, 5}, {5, 1}}) {
        CAPTURE(rows, cols);
        const auto rank = std::min<index_t>(2, std::min(rows, cols));
        const auto gradient = product(normal_numbers<double>(rows * rank, 1),
                                      normal_numbers<double>(rank * cols, 2), static_cast<std::size_t>(rows),
                                      static_cast<std::size_t>(rank), static_cast<std::size_t>(cols));
        galore<double> g(rows, cols, {.rank = 2});
        CHECK(g.low_size() == rank * std::max(rows, cols));
        CHECK(distance(there_and_back(g, gradient), gradient) < 1e-12);
        // Any gradient does when all directions are kept; more than there are is all of them.
        const auto any = normal_numbers<double>(rows * cols, 3);
        galore<double> all(rows, cols, {.rank = 256});
        CHECK(all.rank() == std::min(rows, cols));
        CHECK(distance(there_and_back(all, any), any) < 1e-12);
        galore<double> twice(rows, cols, {.rank = 256, .scale = 2});
        auto doubled = any;
        for (double& v : doubled) v *= 2;
        CHECK(distance(there_and_back(twice, any), doubled) < 1e-12);
    }
}

TEST_CASE("galore: the best directions, kept for an interval", "[train][galore]") {
    // A diagonal gradient: the two largest entries survive.
    numbers gradient(4 * 5, 0.0), kept(4 * 5, 0.0);
    const double entries[4] = {1, -4, 2, 3};
    for (std::size_t i = 0; i < 4; ++i) gradient[i * 5 + i] = entries[i];
    kept[6] = -4;
    kept[18] = 3;
    galore<double> g(4, 5, {.rank = 2, .interval = 2});
    CHECK(distance(there_and_back(g, gradient), kept) < 1e-13);
    // Now others are the largest, and are seen at the next refresh only.
    numbers other(4 * 5, 0.0), late(4 * 5, 0.0);
    other[0] = 5;
    other[12] = 6;
    CHECK(distance(there_and_back(g, other), late) < 1e-13);
    CHECK(distance(there_and_back(g, other), other) < 1e-13);
    // Projecting what came back changes nothing.
    galore<double> once(4, 5, {.rank = 2});
    const auto back = there_and_back(once, normal_numbers<double>(20, 4));
    CHECK(distance(there_and_back(once, back), back) < 1e-13);
    // No direction in a gradient of zeros, and nothing else than zeros back.
    galore<double> zero(4, 5, {.rank = 2});
    CHECK(there_and_back(zero, late) == late);
}

TEST_CASE("galore_adamw: adamw where there is one direction, and less memory", "[train][galore]") {
    // One row: P is plus or minus one, and the sign cancels in every moment that is used.
    const adamw_options options{.rate = 0.1, .decay = 0.2};
    galore_adamw<double> optimiser(1, 7, {.rank = 1, .interval = 1000}, options);
    auto w = normal_numbers<double>(7, 1), expected = w;
    numbers m(7, 0.0), v(7, 0.0);
    for (int step = 1; step < 6; ++step) {
        const auto g = normal_numbers<double>(7, static_cast<std::uint64_t>(step + 1));
        optimiser.step(w, g, 0.5);
        for (std::size_t i = 0; i < 7; ++i) {
            m[i] = 0.9 * m[i] + 0.1 * g[i];
            v[i] = 0.95 * v[i] + 0.05 * g[i] * g[i];
            const double mean = m[i] / (1 - std::pow(0.9, step)), square = v[i] / (1 - std::pow(0.95, step));
            expected[i] -= 0.05 * (mean / (std::sqrt(square) + 1e-8) + 0.2 * expected[i]);
        }
    }
    CHECK(distance(w, expected) < 1e-12);
    CHECK(optimiser.steps() == 5);
    CHECK(galore_adamw<float>(64, 100, {.rank = 4}).bytes() == 2 * 4 * 100 * sizeof(float));
}

TEST_CASE("galore_adamw: finds a matrix, with directions that change", "[train][galore]") {
    const auto target = normal_numbers<float>(8 * 12, 1);
    std::vector<float> w(target.size(), 0.0f), g(target.size());
    galore_adamw<float> optimiser(8, 12, {.rank = 2, .interval = 10}, {.rate = 0.03, .decay = 0});
    const auto loss = [&] {
        double sum = 0;
        for (std::size_t i = 0; i < w.size(); ++i) {
            g[i] = w[i] - target[i];
            sum += static_cast<double>(g[i]) * static_cast<double>(g[i]);
        }
        return sum;
    };
    const double before = loss();
    for (int step = 0; step < 600; ++step) {
        (void)loss();
        optimiser.step(w, g);
    }
    CHECK(loss() < 0.05 * before);
}

TEST_CASE("galore: bad input is refused", "[train][galore][error]") {
    using Catch::Matchers::Contains;
    CHECK_THROWS_WITH(galore<double>(0, 3, {}), Contains("must be positive, got 0 and 3"));
    CHECK_THROWS_WITH(galore<double>(2, 3, {.rank = 0}), Contains("'rank' must be positive, got 0"));
    CHECK_THROWS_WITH(galore<double>(2, 3, {.interval = 0}), Contains("at least one step, got 0"));
    CHECK_THROWS_WITH(galore<double>(2, 3, {.scale = 0}), Contains("'scale' must be a positive number"));
    galore<double> g(2, 3, {.rank = 1});
    numbers low(3), five(5), bad(6, std::numeric_limits<double>::quiet_NaN());
    CHECK_THROWS_WITH(g.project(five, low), Contains("'gradient' must have 6 elements"));
    CHECK_THROWS_WITH(g.project(bad, low), Contains("must hold finite numbers"));
    CHECK_THROWS_WITH(g.expand(five, bad), Contains("'low' must have 3 elements"));
    CHECK_THROWS_WITH(galore_adamw<double>(2, 3, {}, {.epsilon = 0}), Contains("'epsilon' must be positive"));
}
