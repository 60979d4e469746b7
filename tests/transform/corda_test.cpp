#include <mox/transform/corda.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/adapter_case.hpp"
#include "../support/catch.hpp"

using namespace mox;
using Catch::Matchers::Contains;
using mox_test::distance;
using mox_test::normal_numbers;
using mox_test::run_backward;
using mox_test::run_forward;

namespace {

corda_covariance covariance_of(const std::vector<double>& samples, index_t count, index_t length,
                               index_t width) {
    corda_covariance c(width);
    for (index_t s = 0; s < count; ++s)
        c.add(matrix_view<const double>(samples.data() + s * length * width, length, width));
    return c;
}

// s A' B as in x out.
std::vector<double> product(const corda_start& s, index_t in, index_t out, index_t rank) {
    std::vector<double> p(static_cast<std::size_t>(in * out), 0.0);
    for (index_t r = 0; r < rank; ++r) {
        for (index_t i = 0; i < in; ++i) {
            for (index_t o = 0; o < out; ++o)
                p[static_cast<std::size_t>(i * out + o)] +=
                    s.a[static_cast<std::size_t>(r * in + i)] * s.b[static_cast<std::size_t>(r * out + o)];
        }
    }
    return p;
}

template <class Layer>
void check_case(const std::string& name, corda_mode mode) {
    const mox_test::golden g(name);
    const auto calib = g.tensor("in.calib");
    constexpr index_t in = Layer::in, out = Layer::out, rank = Layer::ranks;
    const auto c = covariance_of(calib.values, static_cast<index_t>(calib.shape[0]),
                                 static_cast<index_t>(calib.shape[1]), in);
    const Eigen::MatrixXd mean = c.mean();
    std::vector<double> flat(mean.data(), mean.data() + mean.size());
    CHECK(distance(flat, g.tensor("out.cov").values) < 1e-12);
    const auto w = mox_test::transposed(g.tensor("param.W"));
    const corda_start s = corda(std::span<const double>(w), in, out, rank, c, mode);
    CHECK(distance(s.singular, g.tensor("out.singular").values) < 1e-10);
    CHECK(distance(s.residual, mox_test::transposed(g.tensor("out.W_residual"))) < 1e-10);
    CHECK(distance(product(s, in, out, rank), mox_test::transposed(g.tensor("out.BA"))) < 1e-10);

    // The layer: the same function as its base at the start, and the recorded gradients for the recorded
    // factors (singular vectors have free signs).
    params<Layer, double> weights;
    weights.write("0.0.weight", w);
    corda_initialise<Layer>(weights, "", c, mode);
    tape<Layer, double> t;
    const auto x = g.tensor("in.x").values;
    const auto rows = batch::equal(1, static_cast<index_t>(g.tensor("in.x").shape[0]));
    CHECK(distance(run_forward(weights, x, rows, t), g.tensor("out.y").values) < 1e-10);
    weights.write("a", g.tensor("param.A").values);
    weights.write("b", mox_test::transposed(g.tensor("param.B")));
    CHECK(distance(run_forward(weights, x, rows, t), g.tensor("out.y").values) < 1e-10);
    params<Layer, double> grads;
    CHECK(distance(run_backward(weights, g.tensor("in.dy").values, t, grads), g.tensor("grad.in.x").values) <
          1e-10);
    CHECK(distance(grads.read("a"), g.tensor("grad.param.A").values) < 1e-10);
    CHECK(distance(grads.read("b"), mox_test::transposed(g.tensor("grad.param.B"))) < 1e-10);
}

constexpr adapter_spec rank3{.rank = 3}, rank2{.rank = 2}, scaled{.rank = 3, .alpha = 12},
    kept{.rank = 3, .alpha = 12, .kept_ranks = 2};

// Behind another layer: the same function, of an adapter that is not zero.
template <adapter_spec Spec>
void check_start(const corda_covariance& c) {
    using adapted = lora<linear<7, 9, bias::with>, Spec>;
    using net = stack<linear<5, 7>, adapted>;
    auto w = mox_test::random_params<net, double>(4);
    w.write("1.b", std::vector<double>(27, 0.0));
    const auto x = normal_numbers<double>(50, 1);
    const auto rows = batch::equal(1, 10);
    tape<net, double> t;
    const auto before = run_forward(w, x, rows, t);
    corda_initialise<adapted>(w, "1", c, corda_mode::instruction);
    CHECK(distance(run_forward(w, x, rows, t), before) < 1e-12);
    double size = 0;
    for (const double v : w.read("1.b")) size += std::abs(v);
    CHECK(size > 1);
    // Once more would lose it.
    const std::vector<double> started(w.flat().begin(), w.flat().end());
    CHECK_THROWS_WITH(corda_initialise<adapted>(w, "1", c, corda_mode::instruction),
                      Catch::Matchers::Contains("tensor '1.b' must be zero") &&
                          Catch::Matchers::Contains("started or trained already"));
    CHECK(std::vector<double>(w.flat().begin(), w.flat().end()) == started);
}

}  // namespace

TEST_CASE("golden: corda", "[golden][transform]") {
    check_case<lora<linear<7, 9>, rank3>>("corda-ipm", corda_mode::instruction);
    check_case<lora<linear<10, 8>, rank2>>("corda-kpm", corda_mode::knowledge);
    CHECK(mox_test::unread("corda-ipm") == mox_test::nothing);
    CHECK(mox_test::unread("corda-kpm") == mox_test::nothing);
}

TEST_CASE("corda: any scale keeps the function, and all components are the weight", "[transform][corda]") {
    const auto c = covariance_of(normal_numbers<double>(7 * 30, 5), 3, 10, 7);
    check_start<scaled>(c);
    check_start<kept>(c);

    const auto weight = normal_numbers<double>(63, 8);
    const auto all = corda(std::span<const double>(weight), 7, 9, 7, c, corda_mode::knowledge);
    for (const double v : all.residual) CHECK(std::abs(v) < 1e-11);
    CHECK(distance(product(all, 7, 9, 7), weight) < 1e-11);
}

TEST_CASE("corda: without a preferred direction it is the plain decomposition", "[transform][corda]") {
    // Inputs whose covariance is a multiple of the identity.
    std::vector<double> identity(25, 0.0);
    for (std::size_t i = 0; i < 5; ++i) identity[i * 6] = 1;
    corda_covariance c(5);
    c.add(matrix_view<const double>(identity.data(), 5, 5));
    const auto w = normal_numbers<double>(20, 3);
    const auto s = corda(std::span<const double>(w), 5, 4, 2, c, corda_mode::instruction);
    Eigen::Matrix<double, 5, 4, Eigen::RowMajor> m(w.data());
    const Eigen::JacobiSVD<Eigen::MatrixXd> svd(m, Eigen::ComputeThinU | Eigen::ComputeThinV);
    const Eigen::MatrixXd best = svd.matrixU().leftCols(2) * svd.singularValues().head(2).asDiagonal() *
                                 svd.matrixV().leftCols(2).transpose();
    const auto p = product(s, 5, 4, 2);
    for (index_t i = 0; i < 5; ++i) {
        for (index_t j = 0; j < 4; ++j)
            CHECK(p[static_cast<std::size_t>(i * 4 + j)] == Approx(best(i, j)).margin(1e-12));
    }
}

TEST_CASE("corda: bad input is refused", "[transform][corda]") {
    const auto w = normal_numbers<double>(20, 3);
    const std::span<const double> weight(w);
    corda_covariance c(5);
    CHECK_THROWS_WITH(corda(weight, 5, 4, 2, c, corda_mode::knowledge), Contains("at least one sample"));
    const auto x = normal_numbers<double>(15, 1);
    CHECK_THROWS_WITH(c.add(matrix_view<const double>(x.data(), 5, 3)), Contains("must have 5 columns"));
    CHECK_THROWS_WITH(corda_covariance(-1), Contains("'width' must be positive"));
    // Nothing reached the map: nothing is learned, and nobody is stopped.
    const std::vector<double> zeros(10, 0.0);
    c.add(matrix_view<const double>(zeros.data(), 2, 5));
    CHECK(c.samples() == 0);
    c.add(matrix_view<const double>(x.data(), 3, 5));
    CHECK_THROWS_WITH(corda(weight, 5, 4, 0, c, corda_mode::knowledge), Contains("'rank'"));
    CHECK_THROWS_WITH(corda(weight, 5, 4, 5, c, corda_mode::knowledge), Contains("'rank'"));
    CHECK_THROWS_WITH(corda(weight, 4, 5, 2, c, corda_mode::knowledge), Contains("'inputs'"));
    auto bad = x;
    for (const double v :
         {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
        bad[2] = v;
        CHECK_THROWS_WITH(c.add(matrix_view<const double>(bad.data(), 3, 5)), Contains("finite"));
    }
    // Fewer tokens than inputs: the damping makes it invertible.
    CHECK(corda(weight, 5, 4, 2, c, corda_mode::instruction).a.size() == 10);
}

TEST_CASE("corda: a damping too small to invert is doubled until it does, but not for ever",
          "[transform][corda]") {
    const auto w = normal_numbers<double>(20, 3);
    const std::vector<double> ones(5, 1.0);
    corda_covariance c(5);
    c.add(matrix_view<const double>(ones.data(), 1, 5));
    // Both starts come by the same dampings to the first that inverts; a large one inverts at once.
    const auto start = corda(std::span<const double>(w), 5, 4, 4, c, corda_mode::instruction, 1, 1e-20);
    CHECK(corda(std::span<const double>(w), 5, 4, 4, c, corda_mode::instruction, 1, 4e-20).a == start.a);
    CHECK(corda(std::span<const double>(w), 5, 4, 4, c, corda_mode::instruction, 1, 1e-3).a != start.a);
    for (const double v : start.a) CHECK(std::isfinite(v));
    CHECK_THROWS_WITH(corda(std::span<const double>(w), 5, 4, 4, c, corda_mode::instruction, 1, 1e-300),
                      Contains("cannot be inverted"));
}

namespace {

constexpr attention_spec heads{.width = 8, .heads = 2};
template <class A>
using layers = stack<linear<6, 8>, repeat<2, residual<rms_norm<8>, attention<heads, mask::causal, A>>>,
                     residual<adapted_ffn<8, 6, activation::silu, A>>, linear<8, 5>>;
using watched = layers<as_observed<>>;
constexpr adapter_spec rank4{.rank = 4, .alpha = 8};

}  // namespace

TEST_CASE("corda: all adapters of a network from what reaches their maps", "[transform][corda]") {
    using adapted = layers<with_lora<rank4>>;
    const auto trained = mox_test::random_params<watched, double>(1);
    params<adapted, double> w(init::standard, 2);
    copy_matching(trained, w);
    const auto rows = batch::ragged({7, 5, 9});
    const auto x = normal_numbers<double>(21 * 6, 1);
    tape<watched, double> t;
    tape<adapted, double> u;
    input_statistics<watched, corda_covariance> inputs;
    t.observe(inputs);
    const auto y = mox_test::run_infer(trained, x, rows, t);
    mox_test::run_infer(trained, normal_numbers<double>(21 * 6, 2), rows, t);
    CHECK(inputs.at("1.0.1.qkv").samples() == 2);

    // Two maps in each of three layers; the same function. One of them by itself is the same start.
    params<adapted, double> one = w;
    const std::vector<double> before(w.flat().begin(), w.flat().end());
    CHECK(corda_initialise(w, inputs, corda_mode::instruction) == 6);
    CHECK(std::vector<double>(w.flat().begin(), w.flat().end()) != before);
    CHECK(distance(mox_test::run_infer(w, x, rows, u), y) < 1e-10);
    using map = lora<linear<8, 24>, rank4>;
    corda_initialise<map>(one, "1.1.1.qkv", inputs.at("1.1.1.qkv"), corda_mode::instruction);
    for (const std::string tensor : {"a", "b", "0.0.weight"})
        CHECK(one.read("1.1.1.qkv." + tensor) == w.read("1.1.1.qkv." + tensor));
    for (const auto& e : inputs.entries()) {
        double size = 0;
        for (const double b : w.read(e.place + ".b")) size += std::abs(b);
        CHECK(size > 0.1);
    }
    // Once more would lose them: nothing changes.
    const std::vector<double> started(w.flat().begin(), w.flat().end());
    CHECK_THROWS_WITH(corda_initialise(w, inputs, corda_mode::instruction), Contains("must be zero"));
    CHECK(std::vector<double>(w.flat().begin(), w.flat().end()) == started);
}

TEST_CASE("corda: adapters that can be started among others, observed where they are", "[transform][corda]") {
    using picky = with_lora<rank4, rank_gate::sigmoid_top_k<2>>;
    using net =
        stack<attention<heads, mask::causal, as_observed<with_lora<rank4>>>,
              attention<heads, mask::causal, as_observed<picky>>,
              attention<heads, mask::causal,
                        as_observed<with_each<with_lora<rank4>, as_frozen, as_frozen, with_lora<rank4>>>>,
              attention<heads, mask::causal, with_lora<rank4>>>;
    params<net, double> w(init::standard, 2);
    input_statistics<net, corda_covariance> inputs;
    CHECK_THROWS_WITH(corda_initialise(w, inputs, corda_mode::knowledge),
                      Contains("'inputs' must hold at least one sample"));
    tape<net, double> t;
    t.observe(inputs);
    const auto x = normal_numbers<double>(80, 1);
    const auto y = mox_test::run_infer(w, x, batch::equal(1, 10), t);
    // Both maps of the first layer and the last map of the third.
    CHECK(corda_initialise(w, inputs, corda_mode::knowledge) == 3);
    CHECK(distance(mox_test::run_infer(w, x, batch::equal(1, 10), t), y) < 1e-10);
    for (const double b : w.read("3.out.b")) CHECK(b == 0);

    using none = stack<observed<linear<8, 8>>, lora<linear<8, 5>, rank4>>;
    params<none, double> v(init::standard, 2);
    CHECK_THROWS_WITH(
        (corda_initialise(v, input_statistics<none, corda_covariance>(), corda_mode::knowledge)),
        Contains("observe the map in the network without adapters, or mox::lora from outside"));
    // Who cannot be started is named.
    constexpr adapter_spec rank7{.rank = 7};
    using narrow = stack<observed<lora<linear<8, 5>, rank7>>, dora<linear<5, 5>, rank4>>;
    params<narrow, double> u(init::standard, 2);
    input_statistics<narrow, corda_covariance> seen;
    tape<narrow, double> s;
    s.observe(seen);
    mox_test::run_infer(u, x, batch::equal(1, 10), s);
    CHECK_THROWS_WITH(corda_initialise(u, seen, corda_mode::knowledge),
                      Contains("the adapter '0.0' cannot be started") && Contains("'rank' must lie between"));
}

TEST_CASE("corda: the adapter inside one with magnitudes", "[transform][corda]") {
    using net = stack<linear<6, 8>, observed<dora<linear<8, 5>, rank4>>>;
    params<net, double> w(init::standard, 2);
    start_dora(w);
    input_statistics<net, corda_covariance> inputs;
    tape<net, double> t;
    t.observe(inputs);
    const auto x = normal_numbers<double>(60, 1);
    const auto y = mox_test::run_infer(w, x, batch::equal(1, 10), t);
    CHECK(corda_initialise(w, inputs, corda_mode::instruction) == 1);
    CHECK(distance(mox_test::run_infer(w, x, batch::equal(1, 10), t), y) < 1e-10);
}
