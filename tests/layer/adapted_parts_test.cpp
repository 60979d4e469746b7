#include <mox/layer/adapted_parts.hpp>

#include <cstring>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/gradients.hpp"
#include "../support/layers.hpp"

using namespace mox;
using namespace mox_test;
using Catch::Matchers::Contains;

namespace {

constexpr adapter_spec r2{.rank = 2, .alpha = 3}, r9{.rank = 9, .alpha = 9}, r4{.rank = 4},
    dropping{.rank = 3, .dropout = 0.25};
using map = linear<7, 12>;
template <class... Adapters>
using parts = adapted_parts<map, std::integer_sequence<index_t, 5, 4, 3>, Adapters...>;
using first_and_last = parts<with_lora<r2>, as_frozen, with_lora<r4>>;

// Two query heads for each key/value head: parts of 16, 8 and 8 columns.
constexpr attention_spec heads{.width = 16, .heads = 4, .kv_heads = 2};
template <class Adapter>
using attend = attention<heads, mask::causal, Adapter>;
using on_q_and_v = with_each<with_lora<r2>, as_frozen, with_lora<r2>, as_frozen>;
using routed = with_lora_experts<3, r2, route::top_k<2>>;
using on_each_of_three = with_each<routed, with_lora<r4, rank_gate::sigmoid_top_k<2>>, with_lora<r2>>;
using block = stack<attend<on_q_and_v>, adapted_ffn<16, 9, activation::silu, on_each_of_three>>;
using plain_block = stack<attend<as_they_are>, swiglu<16, 9>>;

}  // namespace

TEST_CASE("adapted_parts: the map, and in the columns of a part what its adapter adds", "[layer][lora]") {
    const auto w = random_params<first_and_last, double>(3);
    const auto rows = batch::ragged({4, 0, 9});
    const auto x = normal_numbers<double>(13 * 7, 1);
    params<map, double> base;
    base.write("weight", w.read("0.0.weight"));
    tape<first_and_last, double> t;
    tape<map, double> u;
    auto expected = run_forward(base, x, rows, u);
    const auto add = [&](const std::string& part, std::size_t first, std::size_t width, std::size_t ranks,
                         double scale) {
        const auto a = w.read(part + ".a"), b = w.read(part + ".b");
        for (std::size_t token = 0; token < 13; ++token) {
            for (std::size_t r = 0; r < ranks; ++r) {
                double z = 0;
                for (std::size_t i = 0; i < 7; ++i) z += x[token * 7 + i] * a[r * 7 + i];
                for (std::size_t o = 0; o < width; ++o)
                    expected[token * 12 + first + o] += scale * z * b[r * width + o];
            }
        }
    };
    add("1", 0, 5, 2, 1.5);
    add("3", 9, 3, 4, 1);
    CHECK(distance(run_forward(w, x, rows, t), expected) < 1e-13);
    CHECK(distance(run_infer(w, x, rows, t), expected) < 1e-13);
    STATIC_REQUIRE(first_and_last::flops(1) == map::flops(1) + 2.0 * 2 * (7 + 5) + 2.0 * 4 * (7 + 3));
}

TEST_CASE("adapted_parts: gradients with every adapter, also picked, dropping and routed", "[layer][lora]") {
    const auto rows = batch::ragged({3, 0, 5, 1});
    gradients<first_and_last>(rows);
    gradients<parts<as_frozen, with_lora<dropping>, as_frozen>>(rows);
    gradients<parts<as_frozen, as_frozen, as_frozen>>(rows);
    gradcheck_options o{.tolerance = 1e-7};
    o.may_be_zero = {"2.router", "2.a", "2.b"};
    gradients<parts<with_lora<r2>, with_lora<r9, rank_gate::sigmoid_top_k<2>>, routed>>(o, rows);
    gradients<attend<on_q_and_v>>({.tolerance = 1e-7}, rows);
    o.may_be_zero = {"1.gate_up.2.router", "0.qkv.1.router"};
    gradients<block>(o, rows);
}

TEST_CASE("adapted_parts: float is near double, and threads give the same bits", "[layer][lora]") {
    const auto w = random_params<block, double>(5, 0.3);
    params<block, float> f;
    for (const auto& info : params<block, double>::tensors()) {
        const auto v = w.read(info);
        f.write(info.path, std::vector<float>(v.begin(), v.end()));
    }
    const auto rows = batch::equal(3, 70);
    const auto x = normal_numbers<double>(210 * 16, 1), dy = normal_numbers<double>(210 * 16, 2);
    const std::vector<float> xf(x.begin(), x.end()), dyf(dy.begin(), dy.end());
    tape<block, double> t;
    thread_pool three(3);
    tape<block, float> one, more(three);
    params<block, float> g, h;
    const auto y = run_forward(f, xf, rows, one);
    CHECK(run_forward(f, xf, rows, more) == y);
    CHECK(run_backward(f, dyf, one, g) == run_backward(f, dyf, more, h));
    CHECK(std::memcmp(g.flat().data(), h.flat().data(), g.flat().size_bytes()) == 0);
    const auto exact = run_forward(w, x, rows, t);
    CHECK(distance(std::vector<double>(y.begin(), y.end()), exact) < 2e-4);
}

TEST_CASE("adapted_parts: a trained network becomes the map, which training leaves alone", "[layer][lora]") {
    const params<plain_block> trained(init::standard, 3);
    params<block> w(init::standard, 4);
    const auto report = copy_matching(trained, w);
    CHECK(report.unused.empty());
    CHECK(report.copied == static_cast<index_t>(params<plain_block>::tensors().size()));
    const auto rows = batch::equal(2, 9);
    const auto x = normal_numbers<float>(18 * 16, 1), dy = normal_numbers<float>(18 * 16, 2);
    tape<plain_block> t;
    tape<block> u;
    // B is zero: the same function.
    CHECK(distance(run_forward(w, x, rows, u), run_forward(trained, x, rows, t)) < 1e-6);
    const std::vector<float> before(w.frozen().begin(), w.frozen().end());
    params<block> g;
    adamw<block> adam({.rate = 1e-2});
    for (int step = 0; step < 5; ++step) {
        run_forward(w, x, rows, u);
        run_backward(w, dy, u, g);
        adam.step(w, g);
    }
    REQUIRE(before.size() == w.frozen().size());
    CHECK(std::memcmp(before.data(), w.frozen().data(), before.size() * sizeof(float)) == 0);
    CHECK(distance(run_forward(w, x, rows, u), run_forward(trained, x, rows, t)) > 1e-3);
    // Every adapter finds its own tensors again.
    params<block> again(init::standard, 9);
    CHECK(copy_matching(w, again).copied == static_cast<index_t>(params<block>::tensors().size()));
    for (const auto& info : params<block>::tensors()) CHECK(again.read(info) == w.read(info));
}

TEST_CASE("adapted_parts: adapters of parts are merged into the columns of their map", "[layer][lora]") {
    using three = with_each<with_lora<r2>, with_lora<r4>, with_lora<r2>>;
    using adapted = stack<linear<16, 16>, attend<on_q_and_v>, adapted_ffn<16, 9, activation::silu, three>>;
    using dense = stack<linear<16, 16>, attend<as_they_are>, swiglu<16, 9>>;
    const auto w = random_params<adapted, double>(4, 0.3);
    params<dense, double> plain;
    copy_matching(w, plain);
    const auto before = plain;
    CHECK(merge(w, plain) == 3);
    const auto rows = batch::ragged({4, 7});
    const auto x = normal_numbers<double>(11 * 16, 1);
    tape<dense, double> t;
    tape<adapted, double> u;
    const auto y = run_forward(w, x, rows, u);
    CHECK(distance(run_forward(plain, x, rows, t), y) < 1e-12);
    CHECK(distance(run_forward(before, x, rows, t), y) > 1e-3);
    // The columns of the keys stay.
    const auto merged = plain.read("1.qkv"), old = before.read("1.qkv");
    for (std::size_t i = 0; i < 16; ++i) {
        for (std::size_t o = 0; o < 32; ++o)
            CHECK((merged[i * 32 + o] == old[i * 32 + o]) == (o >= 16 && o < 24));
    }
    CHECK_THROWS_WITH(merge(w, plain), Contains("merged already"));
    CHECK(unmerge(w, plain) == 3);
    for (const auto& info : params<dense, double>::tensors()) CHECK(plain.read(info) == before.read(info));
}

TEST_CASE("adapted_parts: adapters of parts are served from pools of parts", "[layer][lora]") {
    using pool = with_lora_pool<pool_spec{.adapters = 3, .ranks = 8}>;
    using served = attend<with_each<pool, as_frozen, pool, as_frozen>>;
    const auto one = random_params<attend<on_q_and_v>, double>(7, 0.3);
    params<served, double> w(init::standard, 1);
    w.write("qkv.0.0.weight", one.read("qkv.0.0.weight"));
    w.write("out.0.weight", one.read("out.0.weight"));
    CHECK(load_adapter(one, w, 2) == 2);
    const auto x = normal_numbers<double>(9 * 16, 1);
    auto rows = batch::ragged({5, 4});
    tape<attend<on_q_and_v>, double> t;
    tape<served, double> u;
    const auto alone = run_forward(one, x, rows, t);
    rows.with_labels({2, 2});
    CHECK(distance(run_forward(w, x, rows, u), alone) < 1e-12);
    rows.with_labels({2, -1});
    const auto mixed = run_forward(w, x, rows, u);
    const auto cut = std::ptrdiff_t{5 * 16};
    CHECK(distance(std::vector<double>(mixed.begin(), mixed.begin() + cut),
                   std::vector<double>(alone.begin(), alone.begin() + cut)) < 1e-12);
    CHECK(distance(std::vector<double>(mixed.begin() + cut, mixed.end()),
                   std::vector<double>(alone.begin() + cut, alone.end())) > 1e-3);
}

TEST_CASE("adapted_parts: the map may be packed", "[layer][lora]") {
    using packed = with_weights<attend<on_q_and_v>, weight::int8<>>;
    const auto w = random_params<attend<on_q_and_v>, float>(7, 0.3);
    params<packed> q(init::standard, 1);
    quantize(w, q);
    const auto rows = batch::equal(2, 6);
    const auto x = normal_numbers<float>(12 * 16, 1);
    tape<attend<on_q_and_v>> t;
    tape<packed> u;
    const auto y = run_forward(w, x, rows, t);
    const double far = distance(run_forward(q, x, rows, u), y);
    CHECK(far > 0);
    CHECK(far < 0.1);
}
