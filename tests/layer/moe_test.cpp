#include <mox/layer/moe.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <mox/exec/thread_pool.hpp>
#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/gradients.hpp"
#include "../support/layers.hpp"

using namespace mox;
using namespace mox_test;

namespace {

double silu(double a) { return a / (1 + std::exp(-a)); }

// The output of a mixture of swiglu experts with renormalised or undivided gates, in plain loops.
template <class Net>
std::vector<double> plain_moe(const params<Net, double>& w, const std::vector<double>& x, index_t tokens,
                              index_t width, index_t hidden, index_t true_experts, index_t outputs, index_t k,
                              bool renormalised) {
    const auto router = w.read("router"), first = w.read("gate_up"), second = w.read("down");
    std::vector<double> y(static_cast<std::size_t>(tokens * width), 0);
    for (index_t t = 0; t < tokens; ++t) {
        const double* row = x.data() + t * width;
        std::vector<double> logits(static_cast<std::size_t>(outputs), 0);
        for (index_t i = 0; i < width; ++i) {
            for (index_t e = 0; e < outputs; ++e)
                logits[static_cast<std::size_t>(e)] +=
                    row[i] * router[static_cast<std::size_t>(i * outputs + e)];
        }
        std::vector<index_t> order;
        for (index_t e = 0; e < outputs; ++e) order.push_back(e);
        std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) {
            return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
        });
        double sum = 0;
        for (index_t j = 0; j < (renormalised ? k : outputs); ++j) {
            const index_t e = order[static_cast<std::size_t>(j)];
            if (!renormalised || e < true_experts) sum += std::exp(logits[static_cast<std::size_t>(e)]);
        }
        for (index_t j = 0; j < k; ++j) {
            const index_t e = order[static_cast<std::size_t>(j)];
            if (e >= true_experts) continue;
            const double gate = std::exp(logits[static_cast<std::size_t>(e)]) / sum;
            for (index_t h = 0; h < hidden; ++h) {
                double a = 0, u = 0;
                for (index_t i = 0; i < width; ++i) {
                    const index_t at = (e * width + i) * 2 * hidden;
                    a += row[i] * first[static_cast<std::size_t>(at + h)];
                    u += row[i] * first[static_cast<std::size_t>(at + hidden + h)];
                }
                for (index_t i = 0; i < width; ++i) {
                    y[static_cast<std::size_t>(t * width + i)] +=
                        gate * silu(a) * u * second[static_cast<std::size_t>((e * hidden + h) * width + i)];
                }
            }
        }
    }
    return y;
}

template <index_t D, index_t H, index_t E, index_t M, index_t K, class Gate>
void check_against_plain(index_t tokens, std::uint64_t seed) {
    using net = moe<experts<E, swiglu<D, H>>, route::top_k<K>, Gate, null_experts<M>>;
    const auto w = random_params<net, double>(seed);
    const auto x = normal_numbers<double>(tokens * D, seed + 9);
    const batch rows = batch::equal(1, tokens);
    tape<net, double> t;
    const auto expected =
        plain_moe(w, x, tokens, D, H, E, E + M, K, std::is_same_v<Gate, gate::renormalised>);
    CHECK(distance(run_forward(w, x, rows, t), expected) < 1e-12);
    CHECK(distance(run_infer(w, x, rows, t), expected) < 1e-12);
    thread_pool pool(3);
    tape<net, double> threaded(pool), serial;
    const auto one = run_forward(w, x, rows, serial);
    CHECK(run_forward(w, x, rows, threaded) == one);
    const auto dy = normal_numbers<double>(tokens * D, seed + 10);
    params<net, double> a, b;
    CHECK(run_backward(w, dy, threaded, a) == run_backward(w, dy, serial, b));
    for (const auto& info : params<net, double>::tensors()) CHECK(a.read(info) == b.read(info));
}

}  // namespace

TEST_CASE("moe: forward against plain loops, any number of threads alike", "[layer][moe]") {
    check_against_plain<4, 5, 3, 0, 2, gate::renormalised>(1, 1);
    check_against_plain<5, 3, 4, 0, 1, gate::softmax>(17, 2);
    check_against_plain<17, 9, 5, 0, 5, gate::renormalised>(33, 3);
    check_against_plain<8, 8, 5, 3, 4, gate::renormalised>(40, 4);
    check_against_plain<8, 33, 2, 2, 3, gate::softmax>(70, 5);
    check_against_plain<1, 1, 1, 0, 1, gate::renormalised>(6, 6);
    check_against_plain<40, 24, 4, 0, 2, gate::softmax>(300, 7);
}

TEST_CASE("moe: gradients", "[layer][moe]") {
    gradcheck_options o;
    o.samples = 24;
    const batch ragged = batch::ragged({3, 0, 1, 5});
    gradients<moe<experts<4, swiglu<5, 3>>, route::top_k<2>>>(o, ragged);
    gradients<moe<experts<3, swiglu<4, 9>>, route::top_k<1>, gate::softmax, balance::load<coefficient{0.5}>>>(
        o, ragged);
    gradients<moe<experts<3, swiglu<7, 5>>, route::top_k<3>, null_experts<2>, balance::load<coefficient{0.5}>,
                  balance::z_loss<coefficient{0.1}>, balance::load_per_sequence<coefficient{0.2}>>>(o,
                                                                                                    ragged);
    gradients<moe<experts<3, mlp<5, 11, activation::gelu, bias::with>>, route::top_k<2>, gate::softmax,
                  shared<swiglu<5, 4>>, shared<mlp<5, 3>>>>(o, ragged);
    gradients<moe<experts<3, swiglu<4, 3>>, route::top_k<2>, gate::softmax, capacity::factor<700>>>(o,
                                                                                                    ragged);
    gradients<moe<experts<2, mlp<4, 3, activation::silu, bias::with>>, route::top_k<2>, capacity::factor<600>,
                  null_experts<1>>>(o, batch::equal(1, 9));
}

TEST_CASE("moe: with one expert kept its weight is one and the router learns nothing from the task",
          "[layer][moe]") {
    using net = moe<experts<3, swiglu<4, 5>>, route::top_k<1>>;
    gradcheck_options o;
    o.may_be_zero = {"router"};
    gradients<net>(o, batch::equal(1, 7));
    const auto w = random_params<net, double>(4);
    tape<net, double> t;
    params<net, double> g;
    const auto x = normal_numbers<double>(28, 1);  // backward reads it again
    run_forward(w, x, batch::equal(1, 7), t);
    run_backward(w, normal_numbers<double>(28, 2), t, g);
    for (double v : g.read("router")) CHECK(v == 0.0);
}

TEST_CASE("moe: float agrees with double", "[layer][moe]") {
    // Sums of some 20 products of size below 1 through three maps and a softmax.
    constexpr double bound = 5e-5;
    CHECK(float_distance<moe<experts<4, swiglu<9, 12>>, route::top_k<2>>>(batch::ragged({4, 1, 9}), 5) <
          bound);
    CHECK(float_distance<moe<experts<4, mlp<16, 7, activation::gelu, bias::with>>, route::top_k<2>,
                             gate::softmax, null_experts<2>, balance::load<>>>(batch::ragged({4, 1, 9}), 6) <
          bound);
}

TEST_CASE("moe: no token at all gives zero gradients everywhere", "[layer][moe]") {
    using net = moe<experts<3, mlp<4, 5, activation::gelu, bias::with>>, route::top_k<2>, gate::softmax,
                    balance::load<>, balance::z_loss<>, balance::load_per_sequence<>, shared<swiglu<4, 3>>,
                    capacity::factor<1000>>;
    const auto w = random_params<net, double>(1);
    for (const batch& rows : {batch::equal(0, 0), batch::ragged({0, 0})}) {
        tape<net, double> t;
        auto g = random_params<net, double>(2);
        CHECK(run_forward<net, double>(w, {}, rows, t).empty());
        CHECK(t.aux_loss() == 0.0);
        CHECK(run_backward<net, double>(w, {}, t, g).empty());
        for (const auto& info : params<net, double>::tensors()) {
            for (double v : g.read(info)) CHECK(v == 0.0);
        }
    }
}

TEST_CASE("moe: an expert without tokens has exactly zero gradient", "[layer][moe]") {
    using net = moe<experts<3, mlp<2, 4, activation::gelu, bias::with>>, route::top_k<2>>;
    auto w = random_params<net, double>(8);
    // Positive inputs; expert 1 has by far the smallest logits.
    w.write("router", std::vector<double>{1, -9, 2, 2, -9, 1});
    tape<net, double> t;
    auto g = random_params<net, double>(3);
    const std::vector<double> x{1, 2, 0.5, 0.25, 3, 1};  // backward reads it again
    run_forward(w, x, batch::equal(1, 3), t);
    run_backward(w, normal_numbers<double>(6, 2), t, g);
    CHECK(t.stats<net>().tokens_per_expert == std::vector<index_t>{3, 0, 3});
    for (const char* path : {"up", "down", "up_bias", "down_bias"}) {
        const auto v = g.read(path);
        const std::size_t third = v.size() / 3;
        for (std::size_t i = 0; i < v.size(); ++i) {
            if (i / third == 1)
                CHECK(v[i] == 0.0);
            else
                CHECK(v[i] != 0.0);
        }
    }
}

TEST_CASE("moe: equal router columns go to the lowest indices", "[layer][moe]") {
    using net = moe<experts<5, swiglu<3, 4>>, route::top_k<2>>;
    auto w = random_params<net, double>(8);
    std::vector<double> router;
    for (const double r : {0.5, -1.0, 2.0}) router.insert(router.end(), 5, r);
    w.write("router", router);
    tape<net, double> t;
    run_forward(w, normal_numbers<double>(21, 3), batch::equal(1, 7), t);
    CHECK(t.stats<net>().tokens_per_expert == std::vector<index_t>{7, 7, 0, 0, 0});
    for (index_t i = 0; i < 7; ++i) {
        CHECK(t.routing()[0].chosen[2 * i] == 0);
        CHECK(t.routing()[0].chosen[2 * i + 1] == 1);
    }
}

TEST_CASE("moe: capacity drops the last tokens, whose output is the shared part only", "[layer][moe]") {
    using net = moe<experts<2, swiglu<2, 3>>, route::top_k<1>, gate::softmax, capacity::factor<1000>>;
    auto w = random_params<net, double>(8);
    w.write("router", std::vector<double>{1, -1, 1, -1});
    const std::vector<double> x{1, 2, 2, 1, 0.5, 3, 1, 1};  // all choose expert 0, its limit is 2
    tape<net, double> t;
    const auto y = run_forward(w, x, batch::equal(1, 4), t);
    const auto s = t.stats<net>();
    CHECK(s.dropped == 2);
    CHECK(s.slots == 4);
    CHECK(s.tokens_per_expert == std::vector<index_t>{4, 0});
    using free = moe<experts<2, swiglu<2, 3>>, route::top_k<1>, gate::softmax>;
    params<free, double> v;
    for (const auto& info : params<net, double>::tensors()) v.write(info.path, w.read(info));
    tape<free, double> u;
    const auto all = run_forward(v, x, batch::equal(1, 4), u);
    for (std::size_t i = 0; i < 4; ++i) CHECK(y[i] == all[i]);
    for (std::size_t i = 4; i < 8; ++i) {
        CHECK(y[i] == 0.0);
        CHECK(all[i] != 0.0);
    }
    params<net, double> g;
    const auto dx = run_backward(w, normal_numbers<double>(8, 2), t, g);
    for (std::size_t i = 4; i < 8; ++i) CHECK(dx[i] == 0.0);
}

TEST_CASE("moe: a NaN token leaves the others as they are", "[layer][moe]") {
    using net = moe<experts<4, swiglu<5, 6>>, route::top_k<2>, shared<swiglu<5, 3>>>;
    const auto w = random_params<net, float>(8);
    auto x = normal_numbers<float>(45, 3);
    tape<net, float> t;
    const auto clean = run_forward(w, x, batch::equal(1, 9), t);
    for (std::size_t j = 20; j < 25; ++j) x[j] = std::numeric_limits<float>::quiet_NaN();
    const auto y = run_forward(w, x, batch::equal(1, 9), t);
    for (std::size_t i = 0; i < 45; ++i) {
        if (i / 5 == 4)
            CHECK(std::isnan(y[i]));
        else
            CHECK(y[i] == clean[i]);
    }
    CHECK(t.stats<net>().slots == 18);
}

TEST_CASE("moe: zero null experts is top-k bit for bit, policies in any order", "[layer][moe]") {
    using plain = moe<experts<4, swiglu<5, 6>>, route::top_k<2>, balance::load<>>;
    using nulls = moe<experts<4, swiglu<5, 6>>, balance::load<>, null_experts<0>, gate::renormalised,
                      route::top_k<2>, capacity::dropless>;
    const auto a = random_params<plain, float>(8);
    const auto b = random_params<nulls, float>(8);
    const auto x = normal_numbers<float>(55, 3), dy = normal_numbers<float>(55, 4);
    tape<plain, float> ta;
    tape<nulls, float> tb;
    CHECK(run_forward(a, x, batch::equal(1, 11), ta) == run_forward(b, x, batch::equal(1, 11), tb));
    CHECK(ta.aux_loss() == tb.aux_loss());
    params<plain, float> ga;
    params<nulls, float> gb;
    CHECK(run_backward(a, dy, ta, ga) == run_backward(b, dy, tb, gb));
    for (const auto& info : params<plain, float>::tensors()) CHECK(ga.read(info) == gb.read(info.path));
}

TEST_CASE("moe: with one expert and no choice it is the expert", "[layer][moe]") {
    using net = moe<experts<1, swiglu<5, 6>>, route::top_k<1>>;
    const auto w = random_params<net, double>(8);
    params<swiglu<5, 6>, double> v;
    v.write("gate_up", w.read("gate_up"));
    v.write("down", w.read("down"));
    const auto x = normal_numbers<double>(35, 3);
    tape<net, double> t;
    tape<swiglu<5, 6>, double> u;
    CHECK(run_forward(w, x, batch::equal(1, 7), t) == run_forward(v, x, batch::equal(1, 7), u));
}

TEST_CASE("moe: evaluation has no auxiliary loss", "[layer][moe]") {
    using net = moe<experts<3, swiglu<5, 6>>, route::top_k<2>, balance::load<>, balance::z_loss<>>;
    const auto w = random_params<net, double>(8);
    const auto x = normal_numbers<double>(35, 3);
    tape<net, double> t;
    const auto y = run_forward(w, x, batch::equal(1, 7), t);
    CHECK(t.aux_loss() > 0.0);
    CHECK(run_infer(w, x, batch::equal(1, 7), t) == y);
    CHECK(t.aux_loss() == 0.0);
}
