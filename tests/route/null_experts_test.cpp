#include <mox/route/null_experts.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

template <index_t M, index_t K, class... More>
using net = moe<experts<3, swiglu<4, 5>>, route::top_k<K>, null_experts<M>, More...>;

template <class Net>
params<Net, double> filled(double router_of_nulls) {
    params<Net, double> w(init::standard, 3);
    auto router = w.read("router");
    const index_t cols = static_cast<index_t>(router.size()) / 4;
    for (index_t i = 0; i < 4; ++i) {
        for (index_t e = 0; e < cols; ++e) {
            double& r = router[static_cast<std::size_t>(i * cols + e)];
            // Inputs are positive, so a constant column is a large logit of that sign.
            r = e < 3 ? 20 * r : router_of_nulls;
        }
    }
    w.write("router", router);
    return w;
}

const std::vector<double> tokens{0.5, 1.0, 0.2, 0.7, 0.1, 0.9, 1.5, 0.3, 1.1, 0.4, 0.6, 0.8};

}  // namespace

TEST_CASE("null experts: a token of null choices gets zero, in output and gradients",
          "[route][null_experts]") {
    using all_null = net<2, 2>;
    const auto w = filled<all_null>(100);
    tape<all_null, double> t;
    const auto y = forward<all_null, double>(w, matrix_view<const double>(tokens.data(), 3, 4), t);
    for (index_t i = 0; i < 3; ++i) {
        for (index_t j = 0; j < 4; ++j) {
            CHECK(y(i, j) == 0.0);
            t.output_grad()(i, j) = 1;
        }
    }
    const auto s = t.stats<all_null>();
    CHECK(s.nulls == 6);
    CHECK(s.slots == 6);
    CHECK(s.dropped == 0);
    CHECK(s.tokens_per_expert == std::vector<index_t>{0, 0, 0, 3, 3});
    params<all_null, double> g;
    std::vector<double> dx(12, 5);
    backward<all_null, double>(w, t, g, matrix_view<double>(dx.data(), 3, 4));
    CHECK(std::all_of(dx.begin(), dx.end(), [](double v) { return v == 0; }));
    for (const auto& info : params<all_null, double>::tensors()) {
        const auto v = g.read(info);
        CHECK(std::all_of(v.begin(), v.end(), [](double d) { return d == 0; }));
    }
}

TEST_CASE("null experts: unattractive ones change nothing but the router's width", "[route][null_experts]") {
    using with = net<2, 2>;
    using without = net<0, 2>;
    const auto w = filled<with>(-100);
    auto v = filled<without>(0);
    const auto router = w.read("router");
    std::vector<double> narrow;
    for (std::size_t i = 0; i < 4; ++i) {
        for (std::size_t e = 0; e < 3; ++e) narrow.push_back(router[i * 5 + e]);
    }
    v.write("router", narrow);
    v.write("gate_up", w.read("gate_up"));
    v.write("down", w.read("down"));
    tape<with, double> a;
    tape<without, double> b;
    const matrix_view<const double> x(tokens.data(), 3, 4);
    const auto ya = forward<with, double>(w, x, a);
    const auto yb = forward<without, double>(v, x, b);
    for (index_t i = 0; i < 3; ++i) {
        for (index_t j = 0; j < 4; ++j) CHECK(ya(i, j) == yb(i, j));
    }
    CHECK(a.stats<with>().nulls == 0);
}

TEST_CASE("null experts: the mean number of true experts of a balanced router", "[route][null_experts]") {
    static_assert(net<0, 2>::outputs == 3 && net<0, 2>::mean_experts == 2.0);
    static_assert(net<3, 2>::outputs == 6 && net<3, 2>::mean_experts == 1.0);
    static_assert(net<1, 2>::outputs == 4 && net<1, 2>::mean_experts == 1.5);
    CHECK(params<net<3, 2>, double>::tensors()[0].spec.cols == 6);
}
