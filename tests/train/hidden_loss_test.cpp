#include <mox/train/hidden_loss.hpp>

#include <cmath>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/gradients.hpp"
#include "../support/layers.hpp"

using namespace mox;
using Catch::Matchers::Contains;
using mox_test::normal_numbers;
using mox_test::random_params;
using mox_test::run_backward;
using mox_test::run_forward;
using mox_test::run_infer;

namespace {

using net =
    stack<linear<6, 8, bias::with>, repeat<2, observed<residual<swiglu<8, 4>>>>, observed<linear<8, 5>>>;
const auto rows = batch::ragged({4, 0, 3});

}  // namespace

TEST_CASE("hidden_loss: value and gradient against differences", "[train][hidden_loss]") {
    const auto teacher = random_params<net, double>(1);
    auto w = random_params<net, double>(2);
    const auto x = normal_numbers<double>(42, 1);
    hidden_loss<double> hidden(0.3);
    tape<net, double> t, u;
    t.observe(hidden);
    u.observe(hidden);
    CHECK(hidden.value() == 0);
    hidden.teach();
    run_infer(teacher, x, rows, u);
    const auto value = [&] {
        hidden.learn();
        run_forward(w, x, rows, t);
        return hidden.value();
    };
    // Independently: the mean over three layers of the mean squared difference.
    struct keeps {
        std::vector<std::vector<double>> x;
        void operator()(const observation<double>& seen) { x.push_back(mox_test::flat(seen.x)); }
    } a, b;
    u.observe(a);
    run_infer(teacher, x, rows, u);
    u.observe(b);
    run_infer(w, x, rows, u);
    double expected = 0;
    for (std::size_t l = 0; l < 3; ++l) {
        double sum = 0;
        for (std::size_t i = 0; i < a.x[l].size(); ++i)
            sum += (b.x[l][i] - a.x[l][i]) * (b.x[l][i] - a.x[l][i]);
        expected += 0.3 * sum / static_cast<double>(a.x[l].size()) / 3;
    }
    CHECK(value() == Approx(expected).epsilon(1e-12));

    params<net, double> g;
    run_backward(w, std::vector<double>(35, 0.0), t, g);
    mox_test::for_each_slope(w, g, value, [&](const tensor_info& info, double slope, double gradient) {
        CHECK(std::abs(slope - gradient) < 1e-8);
        // What comes after the last observed input has no part in it.
        CHECK((gradient == 0) == (info.path == "2.0.weight"));
    });
    const double before = value();
    hidden.set_weight(0.6);
    CHECK(value() == Approx(2 * before));
    // The teacher itself has none.
    hidden.learn();
    run_forward(teacher, x, rows, t);
    CHECK(hidden.value() == 0);
}

TEST_CASE("hidden_loss: bad input is refused, no rows are nothing", "[train][hidden_loss]") {
    CHECK_THROWS_WITH(hidden_loss<double>(-1), Contains("'weight' must not be negative"));
    const auto w = random_params<net, double>(2);
    hidden_loss<double> hidden;
    tape<net, double> t;
    t.observe(hidden);
    const auto x = normal_numbers<double>(42, 1);
    params<net, double> g;
    hidden.learn();
    CHECK_THROWS_WITH(run_forward(w, x, rows, t), Contains("must show the same layers"));
    hidden.teach();
    run_infer(w, x, rows, t);
    hidden.learn();
    CHECK_THROWS_WITH(run_forward(w, normal_numbers<double>(12, 1), batch::equal(1, 2), t),
                      Contains("argument 'target' must have 2 rows"));
    // Backward belongs to the pass that learned.
    hidden.learn();
    run_forward(w, x, rows, t);
    hidden.teach();
    CHECK_THROWS_WITH(run_backward(w, std::vector<double>(35, 0.0), t, g),
                      Contains("backward must follow the pass that learned"));
    // Two passes are one too many, and a teacher with more layers is another network.
    hidden.teach();
    run_infer(w, x, rows, t);
    hidden.learn();
    run_forward(w, x, rows, t);
    run_forward(w, x, rows, t);
    CHECK_THROWS_WITH(hidden.value(), Contains("learn() before each pass"));
    using less = stack<linear<6, 8, bias::with>, observed<residual<swiglu<8, 4>>>>;
    tape<less, double> few;
    few.observe(hidden);
    hidden.learn();
    run_forward(random_params<less, double>(2), x, rows, few);
    CHECK_THROWS_WITH(hidden.value(), Contains("must show the same layers"));

    hidden.learn();
    CHECK_THROWS_WITH(hidden.value(), Contains("must show the same layers"));
    hidden.set_weight(2);
    hidden.teach();
    run_infer(w, {}, batch::ragged({0}), t);
    hidden.learn();
    run_forward(w, {}, batch::ragged({0}), t);
    CHECK(hidden.value() == 0);
    run_backward(w, {}, t, g);
    for (const double v : g.flat()) CHECK(v == 0);
}
