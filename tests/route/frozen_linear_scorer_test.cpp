#include <mox/route/frozen_linear_scorer.hpp>

#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/gradients.hpp"
#include "../support/layers.hpp"

using namespace mox;
using mox_test::normal_numbers;

TEST_CASE("frozen_linear_scorer: the router routes as before and is not trained", "[route][scorer]") {
    using trains = moe<experts<3, swiglu<7, 5>>, route::top_k<2>, balance::load<>>;
    using still =
        moe<experts<3, swiglu<7, 5>>, route::top_k<2>, balance::load<>, route::frozen_linear_scorer>;
    const auto rows = batch::ragged({4, 0, 5});
    mox_test::gradients<still>(rows);
    const auto w = mox_test::random_params<trains, double>(4);
    params<still, double> v;
    CHECK(copy_matching(w, v).kept.empty());
    const auto x = normal_numbers<double>(63, 1), dy = normal_numbers<double>(63, 2);
    tape<trains, double> t;
    tape<still, double> u;
    CHECK(mox_test::run_forward(v, x, rows, u) == mox_test::run_forward(w, x, rows, t));
    CHECK(u.aux_loss() == t.aux_loss());
    // The gradients of the rest are the same, those of x with the router's share.
    params<trains, double> g;
    params<still, double> h;
    CHECK(mox_test::run_backward(v, dy, u, h) == mox_test::run_backward(w, dy, t, g));
    CHECK(h.read("gate_up") == g.read("gate_up"));
    CHECK(h.read("down") == g.read("down"));
    CHECK_THROWS(h.read("router"));
    CHECK(params<trains>::trained_count() - params<still>::trained_count() == 21);
    CHECK(mox_test::nothing_from_no_token<still>());
}
