#include <mox/layer/linear.hpp>

#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using namespace mox_test;

namespace {

template <index_t In, index_t Out, bias Bias>
void check_linear() {
    using net = linear<In, Out, Bias>;
    const auto w = random_params<net, double>(3);
    const auto weight = w.read("weight");
    std::vector<double> shift(Out, 0);
    if constexpr (Bias == bias::with) shift = w.read("bias");
    for (const index_t tokens : {index_t{0}, index_t{1}, index_t{6}, index_t{7}, index_t{50}}) {
        const auto x = normal_numbers<double>(tokens * In, 4);
        std::vector<double> expected;
        for (index_t t = 0; t < tokens; ++t) {
            for (index_t j = 0; j < Out; ++j) {
                double sum = shift[static_cast<std::size_t>(j)];
                for (index_t i = 0; i < In; ++i)
                    sum += x[static_cast<std::size_t>(t * In + i)] *
                           weight[static_cast<std::size_t>(i * Out + j)];
                expected.push_back(sum);
            }
        }
        tape<net, double> t;
        CHECK(distance(run_forward(w, x, batch::equal(1, tokens), t), expected) < 1e-13);
        gradcheck_options o;
        o.samples = 20;
        if (tokens > 0 && tokens < 10) {
            const auto r = gradcheck<net>(o, batch::equal(1, tokens));
            INFO(r.message);
            CHECK(r.passed);
        }
        if (tokens == 0) {
            auto g = random_params<net, double>(9);
            run_backward<net, double>(w, {}, t, g);
            for (const auto& info : params<net, double>::tensors()) {
                for (double v : g.read(info)) CHECK(v == 0.0);
            }
        }
    }
}

}  // namespace

TEST_CASE("linear: forward and gradients in many shapes", "[layer][linear]") {
    check_linear<1, 1, bias::with>();
    check_linear<3, 17, bias::with>();
    check_linear<17, 3, bias::none>();
    check_linear<16, 32, bias::none>();
    check_linear<9, 65, bias::with>();
    check_linear<70, 7, bias::with>();
}

TEST_CASE("linear: float agrees with double", "[layer][linear]") {
    CHECK(float_distance<linear<33, 21, bias::with>>(batch::equal(1, 40), 4) < 2e-5);
}

TEST_CASE("linear: shapes of its tensors and wrong widths", "[layer][linear]") {
    using net = linear<3, 5, bias::with>;
    CHECK(params<net, float>::count() == 20);
    CHECK(net::flops(0) == 30.0);
    const params<net, float> w;
    tape<net, float> t;
    const std::vector<float> x(8);
    CHECK_THROWS_AS((forward<net, float>(w, matrix_view<const float>(x.data(), 2, 4), t)), error);
    CHECK_THROWS_AS((forward<net, float>(w, matrix_view<const float>(x.data(), 2, 3), batch::equal(1, 3), t)),
                    error);
    params<net, float> g;
    std::vector<float> wrong(3);
    CHECK_THROWS_AS(g.write("weight", wrong), error);
    CHECK_THROWS_AS(g.write("weights", std::vector<float>(15)), error);
}
