#include <mox/layer/lora_expert.hpp>

#include <cmath>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/gradients.hpp"
#include "../support/layers.hpp"

using namespace mox;
using mox_test::distance;
using mox_test::normal_numbers;
using mox_test::random_params;
using mox_test::run_backward;
using mox_test::run_forward;
using mox_test::run_infer;

namespace {

constexpr adapter_spec rank2{.rank = 2, .alpha = 6}, rank3{.rank = 3, .alpha = 3},
    dropping{.rank = 2, .alpha = 6, .dropout = 0.25};
using gated = swiglu<7, 19>;
using plain = mlp<7, 9, activation::gelu, bias::with>;
template <class Expert, class... Policies>
using mixture = moe<experts<4, Expert>, route::top_k<2>, Policies...>;
const auto rows = batch::ragged({5, 0, 1, 6});

// What one expert computes, written out.
template <class Expert, class Net>
std::vector<double> one_expert(const params<Net, double>& w, std::size_t e, const std::vector<double>& x,
                               double scale, bool updates) {
    const auto read = [&](const std::string& name) { return w.read(name); };
    // x W[e] in a stack of matrices with these columns, from `first` on, plus s (x A') B.
    const auto map = [&](const std::vector<double>& v, const std::string& weight, std::size_t cols,
                         std::size_t first, std::size_t width, const std::string& update) {
        const auto m = read(weight);
        std::vector<double> y(width, 0.0);
        for (std::size_t i = 0; i < v.size(); ++i) {
            for (std::size_t o = 0; o < width; ++o) y[o] += v[i] * m[(e * v.size() + i) * cols + first + o];
        }
        if (!updates) return y;
        const auto a = read(update + "_a"), b = read(update + "_b");
        for (std::size_t r = 2 * e; r < 2 * e + 2; ++r) {
            double z = 0;
            for (std::size_t i = 0; i < v.size(); ++i) z += v[i] * a[r * v.size() + i];
            for (std::size_t o = 0; o < width; ++o) y[o] += scale * z * b[r * width + o];
        }
        return y;
    };
    constexpr bool is_gated = std::is_same_v<Expert, gated>;
    constexpr std::size_t hidden = is_gated ? 19 : 9;
    std::vector<double> h;
    if constexpr (is_gated) {
        h = map(x, "gate_up", 2 * hidden, 0, hidden, "gate");
        const auto up = map(x, "gate_up", 2 * hidden, hidden, hidden, "up");
        for (std::size_t j = 0; j < hidden; ++j) h[j] = h[j] / (1 + std::exp(-h[j])) * up[j];
    } else {
        h = map(x, "up", hidden, 0, hidden, "up");
        const auto b = read("up_bias");
        for (std::size_t j = 0; j < hidden; ++j) {
            const double v = h[j] + b[e * hidden + j];
            h[j] = v * std::erfc(-v / std::sqrt(2.0)) / 2;
        }
    }
    auto y = map(h, "down", 7, 0, 7, "down");
    if constexpr (!is_gated) {
        const auto b = read("down_bias");
        for (std::size_t j = 0; j < 7; ++j) y[j] += b[e * 7 + j];
    }
    return y;
}

template <class Expert>
void check_sum() {
    using net = mixture<lora_expert<Expert, rank2>>;
    const auto w = random_params<net, double>(4);
    const auto x = normal_numbers<double>(12 * 7, 1);
    tape<net, double> t;
    for (const bool infers : {false, true}) {
        const auto y = infers ? run_infer(w, x, rows, t) : run_forward(w, x, rows, t);
        const routing_record& r = t.routing()[0];
        std::vector<double> expected(y.size(), 0.0);
        for (std::size_t token = 0; token < 12; ++token) {
            const std::vector<double> row(x.begin() + static_cast<std::ptrdiff_t>(7 * token),
                                          x.begin() + static_cast<std::ptrdiff_t>(7 * token + 7));
            for (index_t j = 0; j < 2; ++j) {
                const auto e = static_cast<std::size_t>(r.chosen[2 * static_cast<index_t>(token) + j]);
                const auto part = one_expert<Expert>(w, e, row, 3, true);
                for (std::size_t o = 0; o < 7; ++o)
                    expected[7 * token + o] += r.gate(static_cast<index_t>(token), j) * part[o];
            }
        }
        CHECK(distance(y, expected) < 1e-12);
    }
}

}  // namespace

TEST_CASE("lora_expert: the sum over experts and ranks, written out", "[layer][lora]") {
    check_sum<gated>();
    check_sum<plain>();
}

TEST_CASE("lora_expert: gradients, float and double, threads, no token", "[layer][lora]") {
    mox_test::gradients<mixture<lora_expert<gated, rank2>>>(rows);
    mox_test::gradients<mixture<lora_expert<plain, rank2>>>(rows);
    mox_test::gradients<mixture<lora_expert<gated, dropping>>>(rows);
    mox_test::gradients<mixture<lora_expert<plain, dropping>>>(rows);
    mox_test::gradients<mixture<lora_expert<gated, rank3>, route::frozen_linear_scorer>>(rows);
    // Capacity, null experts, a shared expert, an expert that nobody chooses among many.
    mox_test::gradients<moe<experts<3, lora_expert<gated, rank2>>, route::top_k<2>, null_experts<2>,
                            capacity::factor<800>, shared<swiglu<7, 5>>, balance::load<>>>(rows);
    mox_test::gradients<moe<experts<16, lora_expert<plain, rank2>>, route::top_k<1>, gate::softmax>>(
        batch::ragged({3}));
    using wide = moe<experts<4, lora_expert<swiglu<33, 70>, rank3>>, route::top_k<2>>;
    CHECK(mox_test::same_for_threads<wide>(batch::ragged({70, 0, 31})));
    using wide_plain = moe<experts<4, lora_expert<mlp<33, 70, activation::relu, bias::with>, dropping>>,
                           route::top_k<2>, gate::softmax>;
    CHECK(mox_test::same_for_threads<wide_plain>(batch::ragged({70, 0, 31})));
    // Updates that are used and not trained, beside a router that is and one that is not; two shared layers.
    constexpr adapter_spec kept{.rank = 2, .alpha = 6, .frozen = true};
    mox_test::gradients<mixture<lora_expert<gated, kept>>>(rows);
    mox_test::gradients<mixture<lora_expert<plain, kept>, shared<swiglu<7, 3>>, shared<swiglu<7, 2>>>>(rows);
    using nothing = mixture<lora_expert<plain, kept>, route::frozen_linear_scorer>;
    CHECK(params<nothing>::trained_count() == 0);
    mox_test::gradients<stack<linear<7, 7>, nothing>>(rows);
    mox_test::gradients<moe<experts<3, lora_expert<gated, rank2>>, route::top_k<1>, gate::softmax,
                            capacity::per_sequence<1, capacity::overflow::token>>>(rows);
    CHECK(mox_test::nothing_from_no_token<mixture<lora_expert<gated, rank2>>>());
    CHECK(mox_test::nothing_from_no_token<mixture<lora_expert<plain, dropping>>>());
    CHECK(mox_test::float_distance<wide>(batch::ragged({20, 11}), 3) < 2e-4);
}

TEST_CASE("lora_expert: starts as the experts, whose numbers never change", "[layer][lora]") {
    using before = mixture<gated, shared<swiglu<7, 5>>>;
    using after =
        mixture<lora_expert<gated, dropping>, shared<frozen<swiglu<7, 5>>>, route::frozen_linear_scorer>;
    const auto trained = random_params<before, double>(4);
    params<after, double> w(init::standard, 2), g;
    const auto report = copy_matching(trained, w);
    CHECK(report.unused.empty());
    CHECK(report.kept == std::vector<std::string>{"gate_a", "gate_b", "up_a", "up_b", "down_a", "down_b"});
    const auto x = normal_numbers<double>(12 * 7, 1);
    tape<before, double> t;
    tape<after, double> u;
    CHECK(distance(run_forward(w, x, rows, u), run_forward(trained, x, rows, t)) < 1e-13);
    // Updates alone have gradients and moments.
    CHECK(params<after>::trained_count() == 4 * 2 * (3 * 7 + 3 * 19));
    const std::vector<double> still(w.frozen().begin(), w.frozen().end());
    adamw<after, double> adam({.rate = 0.1});
    for (std::uint64_t step = 0; step < 3; ++step) {
        run_forward(w, x, rows, u);
        run_backward(w, normal_numbers<double>(12 * 7, step), u, g);
        adam.step(w, g);
    }
    CHECK(g.frozen().empty());
    CHECK(std::vector<double>(w.frozen().begin(), w.frozen().end()) == still);
    CHECK(distance(run_infer(w, x, rows, u), run_infer(trained, x, rows, t)) > 0.1);
}

TEST_CASE("lora_expert: dropout is off in evaluation and differs between steps and maps", "[layer][lora]") {
    using net = mixture<lora_expert<gated, dropping>>;
    using still = mixture<lora_expert<gated, rank2>>;
    const auto w = random_params<net, double>(4);
    params<still, double> v;
    copy_matching(w, v);
    const auto x = normal_numbers<double>(12 * 7, 1);
    tape<net, double> t;
    tape<still, double> u;
    CHECK(run_infer(w, x, rows, t) == run_infer(v, x, rows, u));
    const auto first = run_forward(w, x, rows, t), second = run_forward(w, x, rows, t);
    CHECK(first != second);
    t.set_step(0);
    CHECK(run_forward(w, x, rows, t) == first);
    CHECK(draw_count<net>() == 1);
    CHECK(draw_count<still>() == 0);
}

TEST_CASE("lora_expert: what it costs is told", "[layer][lora]") {
    using net = mixture<lora_expert<gated, rank2>>;
    using before = mixture<gated>;
    CHECK(net::flops(1) == before::flops(1) + 2 * (6.0 * 2 * (7 + 19)));
    CHECK(net::active_share(1) == 0.5);
}

TEST_CASE("lora_expert: each map has a mask of its own", "[layer][lora]") {
    // One feature and no base in front: a token's output is zero where its gate or its up update is dropped.
    constexpr adapter_spec half{.rank = 2, .alpha = 4, .dropout = 0.5};
    using net = moe<experts<1, lora_expert<swiglu<9, 7>, half>>, route::top_k<1>>;
    auto w = random_params<net, double>(4);
    for (const auto& info : params<net, double>::tensors()) {
        if (info.path.ends_with("gate_up") || info.path.ends_with("down_b"))
            w.write(info, std::vector<double>(w.read(info).size(), 0.0));
    }
    const int kept = mox_test::outputs_of_first_features(w, 400);
    // A quarter; one mask for both would keep half. Five standard deviations are 43.
    CHECK(kept > 100 - 43);
    CHECK(kept < 100 + 43);
}
