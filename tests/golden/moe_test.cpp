#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/golden.hpp"

using mox::index_t;
using mox_test::golden;

namespace {

template <class T>
double distance(const std::vector<T>& got, const std::vector<double>& expected) {
    REQUIRE(got.size() == expected.size());
    double worst = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
        const double d =
            std::abs(static_cast<double>(got[i]) - expected[i]) / std::max(1.0, std::abs(expected[i]));
        worst = std::isnan(d) ? 1e300 : std::max(worst, d);
    }
    return worst;
}

template <class T>
std::vector<T> as(const std::vector<double>& v) {
    return std::vector<T>(v.begin(), v.end());
}

template <class T>
std::vector<T> flat(mox::matrix_view<const T> m) {
    std::vector<T> v;
    for (index_t i = 0; i < m.rows; ++i) v.insert(v.end(), m.row(i), m.row(i) + m.cols);
    return v;
}

using named_values = std::vector<std::pair<std::string, std::vector<double>>>;

// Runs a network on a case: output, choices, balance loss, and the gradients of the task and of the balance
// loss apart. `tensors(prefix)` gives path and values of all tensors of the network from "<prefix><name>".
template <class Net, class T, class Tensors>
void check_network(const golden& g, const mox::batch& rows, const Tensors& tensors, double bound) {
    mox::params<Net, T> weights, grads;
    const named_values all = tensors("param.");
    REQUIRE(all.size() == (mox::params<Net, T>::tensors().size()));
    for (const auto& [path, values] : all) weights.write(path, as<T>(values));

    const std::vector<T> x = as<T>(g.tensor("in.x").values);
    const index_t n = rows.rows();
    REQUIRE(static_cast<index_t>(x.size()) == n * Net::in);
    const mox::matrix_view<const T> input(x.data(), n, Net::in);
    std::vector<T> dx(x.size());
    const mox::matrix_view<T> dinput(dx.data(), n, Net::in);
    mox::tape<Net, T> tape;

    const auto compare = [&](const std::string& prefix) {
        CHECK(distance(dx, g.tensor(prefix + "in.x").values) < bound);
        for (const auto& [path, values] : tensors(prefix + "param.")) {
            INFO(prefix << ' ' << path);
            CHECK(distance(grads.read(path), values) < bound);
        }
    };

    tape.set_aux_scale(0);
    const auto y = mox::forward<Net, T>(weights, input, rows, tape);
    CHECK(distance(flat<T>(y), g.tensor("out.y").values) < bound);
    CHECK(tape.aux_loss() == T(0));
    const std::vector<T> dy = as<T>(g.tensor("in.dy").values);
    for (index_t i = 0; i < n; ++i)
        std::copy_n(dy.data() + i * Net::out, Net::out, tape.output_grad().row(i));
    mox::backward<Net, T>(weights, tape, grads, dinput);
    compare("grad.");

    REQUIRE(tape.routing().size() == 1);
    const mox::routing_record& routing = tape.routing()[0];
    const auto expected_choices = g.integers("route.index").values;
    REQUIRE(expected_choices.size() == static_cast<std::size_t>(routing.rows * routing.slots));
    for (index_t t = 0; t < routing.rows; ++t) {
        // As sets: the reference may list a token's choices unsorted.
        std::vector<index_t> a, b;
        for (index_t j = 0; j < routing.slots; ++j) {
            a.push_back(routing.chosen[t * routing.slots + j]);
            b.push_back(
                static_cast<index_t>(expected_choices[static_cast<std::size_t>(t * routing.slots + j)]));
        }
        std::sort(a.begin(), a.end());
        std::sort(b.begin(), b.end());
        CHECK(a == b);
    }

    tape.set_aux_scale(1);
    mox::forward<Net, T>(weights, input, rows, tape);
    const double balance = g.tensor("loss.balance").values.at(0);
    CHECK(std::abs(static_cast<double>(tape.aux_loss()) - balance) < bound);
    CHECK(tape.aux_loss() > T(0));
    for (index_t i = 0; i < n; ++i) std::fill_n(tape.output_grad().row(i), Net::out, T(0));
    mox::backward<Net, T>(weights, tape, grads, dinput);
    compare("grad_balance.");
}

template <class Net, class T>
void check_deepseek(const std::string& name, double bound) {
    const golden g(name);
    const auto tensors = [&](const std::string& prefix) -> named_values {
        return {{"router", mox_test::transposed(g.tensor(prefix + "router"))},
                {"gate_up", mox_test::gate_and_up(g.tensor(prefix + "gate"), g.tensor(prefix + "up"))},
                {"down", mox_test::transposed(g.tensor(prefix + "down"))},
                {"0.gate_up",
                 mox_test::gate_and_up(g.tensor(prefix + "shared_gate"), g.tensor(prefix + "shared_up"))},
                {"0.down", mox_test::transposed(g.tensor(prefix + "shared_down"))}};
    };
    const auto shape = g.tensor("in.x").shape;
    check_network<Net, T>(
        g, mox::batch::equal(static_cast<index_t>(shape[0]), static_cast<index_t>(shape[1])), tensors, bound);
}

// Products of up to 13 terms through two experts and a softmax, in float.
constexpr double float_bound = 1e-5;

using basic = mox::moe<mox::experts<5, mox::swiglu<12, 6>>, mox::route::top_k<2>, mox::gate::softmax,
                       mox::balance::load<mox::coefficient{0.01}>, mox::shared<mox::swiglu<12, 12>>>;
using idle =
    mox::moe<mox::experts<4, mox::swiglu<8, 5>>, mox::route::top_k<2>, mox::gate::renormalised,
             mox::balance::load_per_sequence<mox::coefficient{0.003}>, mox::shared<mox::swiglu<8, 5>>>;
using seqaux =
    mox::moe<mox::experts<6, mox::swiglu<10, 5>>, mox::route::top_k<3>, mox::gate::softmax,
             mox::balance::load_per_sequence<mox::coefficient{0.001}>, mox::shared<mox::swiglu<10, 5>>>;
using widenet = mox::residual<
    mox::layer_norm<8, mox::coefficient{1e-6}>,
    mox::moe<mox::experts<3, mox::mlp<8, 4, mox::activation::gelu, mox::bias::with>>, mox::route::top_k<1>,
             mox::gate::softmax, mox::balance::load<mox::coefficient{1.0}>>>;

}  // namespace

TEST_CASE("golden: deepseekmoe, batch-wise balance", "[golden][moe]") {
    check_deepseek<basic, double>("deepseekmoe-basic", 1e-12);
    check_deepseek<basic, float>("deepseekmoe-basic", float_bound);
}

TEST_CASE("golden: deepseekmoe, renormalised, an expert without tokens", "[golden][moe]") {
    check_deepseek<idle, double>("deepseekmoe-idle", 1e-12);
    check_deepseek<idle, float>("deepseekmoe-idle", float_bound);
}

TEST_CASE("golden: deepseekmoe, balance per sequence", "[golden][moe]") {
    check_deepseek<seqaux, double>("deepseekmoe-seqaux", 1e-12);
    check_deepseek<seqaux, float>("deepseekmoe-seqaux", float_bound);
}

TEST_CASE("golden: widenet of one block", "[golden][moe]") {
    const golden g("widenet-depth1");
    const auto tensors = [&](const std::string& prefix) -> named_values {
        return {{"0.gain", g.tensor(prefix + "ln_weight").values},
                {"0.shift", g.tensor(prefix + "ln_bias").values},
                {"1.router", mox_test::transposed(g.tensor(prefix + "router"))},
                {"1.up", mox_test::transposed(g.tensor(prefix + "w1"))},
                {"1.down", mox_test::transposed(g.tensor(prefix + "w2"))},
                {"1.up_bias", g.tensor(prefix + "b1").values},
                {"1.down_bias", g.tensor(prefix + "b2").values}};
    };
    check_network<widenet, double>(g, mox::batch::equal(1, 5), tensors, 1e-12);
    check_network<widenet, float>(g, mox::batch::equal(1, 5), tensors, float_bound);
}

namespace {

// The expert part of residual mixtures: outputs, admitted slots and their weights.
template <class Net>
void check_prmoe(const std::string& name) {
    const golden g(name);
    mox::params<Net, double> weights;
    weights.write("router", mox_test::transposed(g.tensor("param.router")));
    weights.write("up", mox_test::transposed(g.tensor("param.w1")));
    weights.write("down", mox_test::transposed(g.tensor("param.w2")));
    weights.write("up_bias", g.tensor("param.b1").values);
    weights.write("down_bias", g.tensor("param.b2").values);
    const std::vector<double> x = g.tensor("in.x").values;
    const auto n = static_cast<index_t>(g.tensor("in.x").shape[0]);
    mox::tape<Net, double> tape;
    const auto y =
        mox::forward<Net, double>(weights, mox::matrix_view<const double>(x.data(), n, Net::in), tape);
    CHECK(distance(flat<double>(y), g.tensor("out.moe").values) < 1e-12);
    CHECK(std::abs(tape.aux_loss() - g.tensor("loss.balance").values.at(0)) < 1e-12);

    const auto combine = g.tensor("route.combine");
    const auto experts = static_cast<index_t>(combine.shape[1]);
    REQUIRE(tape.routing().size() == 1);
    const mox::routing_record& r = tape.routing()[0];
    index_t dropped = 0;
    for (index_t t = 0; t < n; ++t) {
        index_t expected = -1;
        for (index_t e = 0; e < experts; ++e) {
            if (combine.values[static_cast<std::size_t>(t * experts + e)] != 0) expected = e;
        }
        dropped += expected < 0 ? 1 : 0;
        CHECK(r.chosen[t] == expected);
    }
    CHECK(r.dropped == dropped);
}

template <index_t D, index_t H, class Capacity>
using prmoe =
    mox::moe<mox::experts<4, mox::mlp<D, H, mox::activation::gelu, mox::bias::with>>, mox::route::top_k<1>,
             mox::gate::softmax, Capacity, mox::balance::load<mox::coefficient{1.0}>>;

}  // namespace

TEST_CASE("golden: residual mixture, capacity admits tokens in order", "[golden][moe]") {
    check_prmoe<prmoe<6, 5, mox::capacity::factor<1000>>>("prmoe-capacity");
}

TEST_CASE("golden: residual mixture, nothing dropped", "[golden][moe]") {
    check_prmoe<prmoe<8, 6, mox::capacity::factor<4000>>>("prmoe-top1");
    check_prmoe<prmoe<8, 6, mox::capacity::dropless>>("prmoe-top1");
}
