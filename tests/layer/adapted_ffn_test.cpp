#include <mox/layer/adapted_ffn.hpp>

#include <cmath>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/gradients.hpp"
#include "../support/layers.hpp"

using namespace mox;
using namespace mox_test;

namespace {

constexpr adapter_spec rank3{.rank = 3, .alpha = 5};
template <index_t D, index_t H, class Act = activation::silu>
using plain = adapted_ffn<D, H, Act, as_they_are>;
template <index_t D, index_t H, class Act = activation::silu>
using adapted = adapted_ffn<D, H, Act, with_lora<rank3>>;

}  // namespace

TEST_CASE("adapted_ffn: gradients, alone and with adapters on its maps", "[layer][ffn]") {
    const auto rows = batch::ragged({3, 0, 5, 1});
    gradients<plain<7, 5>>(rows);
    gradients<plain<1, 1, activation::gelu_tanh>>(rows);
    gradients<adapted<7, 9>>(rows);
    gradients<adapted<9, 16, activation::gelu>>(rows);
    // Both maps frozen: a gradient of the input and of nothing else.
    using still = adapted_ffn<16, 9, activation::silu, as_frozen>;
    gradients<still>(rows);
    STATIC_REQUIRE(parameter_extent<still, double>().trained == 0);
}

TEST_CASE("adapted_ffn: with its maps as they are it is the gated network, forward and backward",
          "[layer][ffn]") {
    const auto check = [](auto gated, auto wrapped) {
        using from = decltype(gated);
        using to = decltype(wrapped);
        const auto w = random_params<from, double>(3);
        params<to, double> v;
        const auto report = copy_matching(w, v);
        CHECK((report.copied == 2 && report.unused.empty() && report.kept.empty()));
        CHECK(from::flops(1) == to::flops(1));
        for (const index_t tokens : {index_t{0}, index_t{1}, index_t{33}}) {
            const auto rows = batch::equal(1, tokens);
            const auto x = normal_numbers<double>(tokens * from::in, 1),
                       dy = normal_numbers<double>(tokens * from::in, 2);
            tape<from, double> t;
            tape<to, double> u;
            const auto y = run_forward(v, x, rows, u);
            CHECK(distance(y, run_forward(w, x, rows, t)) < 1e-13);
            params<from, double> g;
            params<to, double> h;
            CHECK(distance(run_backward(v, dy, u, h), run_backward(w, dy, t, g)) < 1e-12);
            CHECK(distance(h.read("gate_up"), g.read("gate_up")) < 1e-12);
            CHECK(distance(h.read("down"), g.read("down")) < 1e-12);
            CHECK(run_infer(v, x, rows, u) == y);
        }
    };
    check(swiglu<6, 5>{}, plain<6, 5>{});
    check(gated_ffn<16, 37, activation::gelu>{}, plain<16, 37, activation::gelu>{});
    check(gated_ffn<17, 16, activation::relu>{}, plain<17, 16, activation::relu>{});
}

TEST_CASE("adapted_ffn: the network of two maps, with and without biases", "[layer][ffn]") {
    const auto rows = batch::ragged({3, 0, 5, 1});
    gradients<adapted_mlp<7, 5, activation::gelu, as_they_are, bias::with>>(rows);
    gradients<adapted_mlp<7, 9, activation::gelu, with_lora<rank3>, bias::with>>(rows);
    gradients<adapted_mlp<9, 16, activation::silu, with_lora<rank3>>>(rows);
    // One adapter for each of the two maps.
    gradients<adapted_mlp<7, 9, activation::gelu, with_each<with_lora<rank3>, as_frozen>, bias::with>>(rows);

    using from = mlp<9, 21, activation::gelu, bias::with>;
    using still = adapted_mlp<9, 21, activation::gelu, as_they_are, bias::with>;
    using to = adapted_mlp<9, 21, activation::gelu, with_lora<rank3>, bias::with>;
    const auto w = random_params<from, double>(3);
    const auto x = normal_numbers<double>(9 * 9, 1), dy = normal_numbers<double>(9 * 9, 2);
    tape<from, double> t;
    const auto y = run_forward(w, x, rows, t);
    params<still, double> u, h;
    CHECK(copy_matching(w, u).copied == 4);
    tape<still, double> tu;
    CHECK(distance(run_forward(u, x, rows, tu), y) < 1e-13);
    params<from, double> g;
    CHECK(distance(run_backward(u, dy, tu, h), run_backward(w, dy, t, g)) < 1e-12);
    for (const std::string tensor : {"up", "down", "up_bias", "down_bias"})
        CHECK(distance(h.read(tensor), g.read(tensor)) < 1e-12);

    // Adapters start as the network and are merged into it; its biases are frozen with it.
    params<to, double> v(init::standard, 5);
    CHECK(copy_matching(w, v).copied == 4);
    tape<to, double> tv;
    CHECK(distance(run_forward(v, x, rows, tv), y) < 1e-13);
    for (const auto& info : params<to>::tensors())
        CHECK(info.spec.trained == (info.path.ends_with(".a") || info.path.ends_with(".b")));
    v.write("up.b", normal_numbers<double>(3 * 21, 7));
    v.write("down.b", normal_numbers<double>(3 * 9, 8));
    auto merged = w;
    CHECK(merge(v, merged) == 2);
    CHECK(distance(run_forward(merged, x, rows, t), run_forward(v, x, rows, tv)) < 1e-12);
}

TEST_CASE("adapted_ffn: the first map has the gate columns and behind them the up columns", "[layer][ffn]") {
    params<plain<1, 2>, double> w;
    w.write("gate_up", std::vector<double>{1, -2, 3, 5});
    w.write("down", std::vector<double>{7, 11});
    tape<plain<1, 2>, double> t;
    const auto silu = [](double a) { return a / (1 + std::exp(-a)); };
    const auto y = run_forward(w, std::vector<double>{2}, batch::equal(1, 1), t);
    REQUIRE(y.size() == 1);
    CHECK(y[0] == Approx(7 * silu(2) * 6 + 11 * silu(-4) * 10).epsilon(1e-14));
}

TEST_CASE("adapted_ffn: with adapters it takes over a trained network and starts as it", "[layer][ffn]") {
    const auto trained = random_params<swiglu<8, 11>, double>(5);
    params<adapted<8, 11>, double> w(init::standard, 4);
    const auto report = copy_matching(trained, w);
    CHECK(report.copied == 2);
    CHECK(report.unused.empty());
    for (const auto& path : report.kept) CHECK((path.ends_with(".a") || path.ends_with(".b")));
    const auto x = normal_numbers<double>(8 * 9, 1);
    const auto rows = batch::equal(1, 9);
    tape<swiglu<8, 11>, double> t;
    tape<adapted<8, 11>, double> u;
    CHECK(distance(run_forward(w, x, rows, u), run_forward(trained, x, rows, t)) < 1e-13);
    // The adapters' matrices and nothing else are trained: rank x (in + out) of both maps.
    CHECK(params<adapted<8, 11>>::trained_count() == 3 * (8 + 22) + 3 * (11 + 8));
}

TEST_CASE("adapted_ffn: float agrees with double, threads give the same bits, no token gives nothing",
          "[layer][ffn]") {
    CHECK(float_distance<adapted<24, 40>>(batch::equal(1, 20), 4) < 2e-4);
    CHECK(same_for_threads<adapted<33, 70>>(batch::ragged({300, 200})));
    CHECK(nothing_from_no_token<adapted<7, 9>>());
}
