#include <mox/layer/positions.hpp>

#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;

TEST_CASE("learned positions: each row gets its position's vector", "[layer][positions]") {
    using net = learned_positions<4, 3>;
    const auto w = mox_test::random_params<net, double>(1);
    const auto table = w.read("table");
    const batch rows = batch::ragged({4, 0, 2});
    const auto x = mox_test::normal_numbers<double>(18, 2);
    tape<net, double> t;
    const auto y = mox_test::run_forward(w, x, rows, t);
    const std::vector<std::size_t> position{0, 1, 2, 3, 0, 1};
    for (std::size_t r = 0; r < 6; ++r) {
        for (std::size_t j = 0; j < 3; ++j) CHECK(y[r * 3 + j] == x[r * 3 + j] + table[position[r] * 3 + j]);
    }
}

TEST_CASE("learned positions: gradients", "[layer][positions]") {
    const auto r = gradcheck<learned_positions<9, 20>>({}, batch::ragged({5, 0, 9, 1}));
    INFO(r.message);
    CHECK(r.passed);
    // Positions that did not occur get a zero, also where something else was before.
    using net = learned_positions<5, 2>;
    const auto w = mox_test::random_params<net, double>(1);
    auto g = mox_test::random_params<net, double>(2);
    tape<net, double> t;
    mox_test::run_forward(w, {1, 2, 3, 4}, batch::equal(1, 2), t);
    mox_test::run_backward(w, {1, 10, 100, 1000}, t, g);
    CHECK(g.read("table") == std::vector<double>{1, 10, 100, 1000, 0, 0, 0, 0, 0, 0});
}

TEST_CASE("learned positions: a sequence that is too long is refused by name", "[layer][positions]") {
    using net = learned_positions<4, 3>;
    const params<net, double> w;
    tape<net, double> t;
    const std::vector<double> x(15);
    CHECK_THROWS_WITH(mox_test::run_forward(w, x, batch::equal(1, 5), t),
                      "mox::learned_positions: argument 'positions' must hold values from 0 to 3, got 4 at "
                      "position 4");
    CHECK(mox_test::run_forward<net, double>(w, {}, batch::equal(0, 0), t).empty());
}

TEST_CASE("learned positions: selected tokens keep their original positions", "[layer][positions]") {
    using net = depth<learned_positions<6, 2>, route::learned, keep_permille<500>, weighting::none,
                      sampling::whole_sequence>;
    auto w = mox_test::random_params<net, double>(1);
    w.write("router", std::vector<double>{1, 0});
    const auto table = w.read("0.table");
    const std::vector<double> x{0, 0, 9, 0, 0, 0, 8, 0};  // rows 1 and 3 pass
    tape<net, double> t;
    const auto y = mox_test::run_forward(w, x, batch::equal(1, 4), t);
    CHECK(y[2] == 9 + table[2]);
    CHECK(y[6] == 8 + table[6]);
    CHECK((y[0] == 0 && y[4] == 0));
}
