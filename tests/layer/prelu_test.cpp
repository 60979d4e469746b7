#include <mox/layer/prelu.hpp>

#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using namespace mox_test;

TEST_CASE("prelu: values and gradients by hand", "[layer][prelu]") {
    using net = prelu<3>;
    params<net, double> w, g;
    w.write("slope", std::vector<double>{-0.5});
    tape<net, double> t;
    const std::vector<double> x{1, -2, 0, -4, 8, -16}, dy{1, 2, 4, 8, 16, 32};
    CHECK(run_forward(w, x, batch::equal(1, 2), t) == std::vector<double>{1, 1, 0, 2, 8, 8});
    CHECK(run_backward(w, dy, t, g) == std::vector<double>{1, -1, -2, -4, 16, -16});
    CHECK(g.read("slope") == std::vector<double>{2 * -2 + 8 * -4 + 32 * -16});
}

TEST_CASE("prelu: starts at its slope", "[layer][prelu]") {
    const params<prelu<3>, float> w{init::standard, 1};
    CHECK(w.read("slope") == std::vector<float>{0.25f});
    const params<prelu<3, coefficient{0.1}>, float> v{init::standard, 2};
    CHECK(v.read("slope") == std::vector<float>{0.1f});
}

TEST_CASE("prelu: gradients in a reward head", "[layer][prelu]") {
    using net = stack<linear<6, 5, bias::with>, prelu<5>, linear<5, 1, bias::with>>;
    const auto r = gradcheck<net>();
    INFO(r.message);
    CHECK(r.passed);
    CHECK(r.worst() < 1e-8);
    // Frozen: the gradient of the input passes, the slope has none.
    const auto f = gradcheck<stack<linear<6, 5>, frozen<prelu<5>>, linear<5, 2>>>();
    INFO(f.message);
    CHECK(f.passed);
}

TEST_CASE("prelu: float, threads, and no token", "[layer][prelu]") {
    using net = stack<linear<6, 21>, prelu<21>>;
    CHECK(float_distance<net>(batch::equal(1, 9), 3) < 5e-5);
    CHECK(same_for_threads<net>(batch::equal(3, 100)));
    CHECK(nothing_from_no_token<net>());
}
