#include <mox/layer/observed.hpp>

#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using mox_test::distance;
using mox_test::normal_numbers;
using mox_test::random_params;
using mox_test::run_backward;
using mox_test::run_forward;
using mox_test::run_infer;

namespace {

constexpr attention_spec heads{.width = 16, .heads = 2};
constexpr adapter_spec rank3{.rank = 3, .alpha = 6};
template <class L>
using as_is = L;

// The same network with `O` around layers of every kind and `A` around the maps of others.
template <template <class> class O, class A>
using network = stack<linear<6, 16, bias::with>,
                      repeat<2, stack<residual<rms_norm<16>, attention<heads, mask::causal, A>>,
                                      O<residual<rms_norm<16>, moe<experts<3, swiglu<16, 9>>, route::top_k<2>,
                                                                   shared<O<swiglu<16, 4>>>>>>>>,
                      depth<O<adapted_ffn<16, 7, activation::silu, A>>, route::learned, keep_permille<500>>,
                      O<lora<O<linear<16, 5, bias::with>>, rank3>>>;
using plain = network<as_is, as_they_are>;
using shown = network<observed, as_observed<>>;

// Keeps what it sees.
struct keeps {
    std::vector<index_t> index;
    std::vector<std::vector<double>> x;
    std::vector<const void*> layer;

    void operator()(const observation<double>& seen) {
        index.push_back(seen.index);
        x.push_back(mox_test::flat(seen.x));
        layer.push_back(seen.layer);
    }
};

const auto rows = batch::ragged({5, 0, 4});

}  // namespace

TEST_CASE("observed: output, gradients and names are those without", "[layer][observed]") {
    const auto w = random_params<plain, double>(4);
    params<shown, double> v;
    CHECK(copy_matching(w, v).kept.empty());
    const auto x = normal_numbers<double>(54, 1), dy = normal_numbers<double>(45, 2);
    tape<plain, double> t;
    tape<shown, double> u;
    params<plain, double> g, h;
    params<shown, double> gv;
    keeps all;
    for (const bool looks : {false, true}) {
        if (looks) u.observe(all);
        CHECK(run_forward(v, x, rows, u) == run_forward(w, x, rows, t));
        CHECK(run_backward(v, dy, u, gv) == run_backward(w, dy, t, g));
        copy_matching(gv, h);
        CHECK(std::vector<double>(h.flat().begin(), h.flat().end()) ==
              std::vector<double>(g.flat().begin(), g.flat().end()));
        CHECK(run_infer(v, x, rows, u) == run_infer(w, x, rows, t));
    }
    // Two repetitions of qkv, out, block, shared; depth's block and its two maps; the adapter and its map.
    CHECK(observed_count<shown>() == 2 * 4 + 3 + 2);
    CHECK(observed_count<plain>() == 0);
    CHECK(all.index.size() == 2 * 13);
    for (std::size_t i = 0; i < all.index.size(); ++i) CHECK(all.index[i] == static_cast<index_t>(i % 13));
    u.stop_observing();
    run_forward(v, x, rows, u);
    CHECK(all.index.size() == 2 * 13);
    CHECK(gradcheck<shown>({}, rows).passed);
    CHECK(mox_test::nothing_from_no_token<shown>());
    CHECK(mox_test::same_for_threads<shown>(batch::ragged({70, 30})));
}

TEST_CASE("observed: it sees what the layer before it gave", "[layer][observed]") {
    using first = stack<linear<6, 16>, observed<rms_norm<16>>>;
    using second = stack<first, observed<linear<16, 5>>>;
    const auto w = random_params<second, double>(4);
    const auto x = normal_numbers<double>(54, 1);
    params<linear<6, 16>, double> a;
    a.write("weight", w.read("0.0.weight"));
    params<stack<linear<6, 16>, rms_norm<16>>, double> b;
    b.write("0.weight", w.read("0.0.weight"));
    b.write("1.gain", w.read("0.1.0.gain"));
    tape<second, double> t;
    tape<linear<6, 16>, double> ta;
    tape<stack<linear<6, 16>, rms_norm<16>>, double> tb;
    keeps all;
    t.observe(all);
    run_infer(w, x, rows, t);
    REQUIRE(all.x.size() == 2);
    CHECK(all.x[0] == run_infer(a, x, rows, ta));
    CHECK(all.x[1] == run_infer(b, x, rows, tb));
    CHECK(all.layer[0] == type_id<observed<rms_norm<16>>>());
    CHECK(all.layer[1] == type_id<observed<linear<16, 5>>>());
}

TEST_CASE("observed: a depth layer without rows skips its numbers", "[layer][observed]") {
    using net = stack<depth<observed<swiglu<6, 4>>, route::learned, keep_permille<500>, sampling::threshold>,
                      observed<linear<6, 5>>>;
    auto w = random_params<net, double>(4);
    const auto x = std::vector<double>(12, 1.0);
    keeps all;
    tape<net, double> t;
    t.observe(all);
    // All scores negative: in evaluation nobody passes.
    w.write("0.router", std::vector<double>(6, -1.0));
    run_infer(w, x, batch::equal(1, 2), t);
    CHECK(all.index == std::vector<index_t>{1});
    w.write("0.router", std::vector<double>(6, 1.0));
    run_infer(w, x, batch::equal(1, 2), t);
    CHECK(all.index == std::vector<index_t>{1, 0, 1});
}

namespace {

// Half the square of what reaches the layers: its gradient is what reaches them.
struct squares {
    double sum = 0;
    void operator()(const observation<double>& seen) {
        for (const double v : mox_test::flat(seen.x)) sum += v * v / 2;
    }
    void backward(const observation<double>& seen, matrix_view<double> dx) {
        for (index_t t = 0; t < dx.rows; ++t) {
            for (index_t j = 0; j < dx.cols; ++j) dx(t, j) += seen.x(t, j);
        }
    }
};

}  // namespace

TEST_CASE("observed: the gradient of a loss on inner inputs, against differences", "[layer][observed]") {
    auto w = random_params<shown, double>(4, 0.3);
    const auto x = normal_numbers<double>(54, 1);
    const std::vector<double> none(45, 0.0);
    tape<shown, double> t;
    params<shown, double> g;
    squares loss;
    t.set_aux_scale(0);
    t.observe(loss);
    const auto value = [&] {
        loss.sum = 0;
        run_forward(w, x, rows, t);
        return loss.sum;
    };
    CHECK(value() > 1);
    const auto dx = run_backward(w, none, t, g);
    CHECK(distance(dx, std::vector<double>(dx.size(), 0.0)) > 0.01);
    int compared = 0;
    for (const auto& info : params<shown, double>::tensors()) {
        if (!info.spec.trained) continue;
        const auto values = w.read(info), expected = g.read(info);
        const std::size_t i = values.size() / 2;
        auto moved = values;
        const auto at = [&](double step) {
            moved[i] = values[i] + step;
            w.write(info, moved);
            return value();
        };
        const double slope = (at(1e-5) - at(-1e-5)) / 2e-5;
        w.write(info, values);
        INFO(info.path);
        CHECK(std::abs(slope - expected[i]) < 1e-6 * std::max(1.0, std::abs(slope)));
        compared += std::abs(slope) > 1e-3 ? 1 : 0;
    }
    CHECK(compared > 8);
}

TEST_CASE("observed: around other adapters, with fewer bits, while decoding", "[layer][observed]") {
    using net = attention<heads, mask::causal, as_observed<with_lora<rank3>>>;
    const auto w = random_params<net, double>(4);
    keeps all;
    tape<net, double> t;
    t.observe(all);
    const auto x = normal_numbers<double>(9 * 16, 1);
    const auto y = run_infer(w, x, batch::equal(1, 9), t);
    REQUIRE(all.x.size() == 2);
    CHECK(all.x[0] == x);
    CHECK(all.x[1].size() == 9 * 16);
    CHECK(all.layer[0] == type_id<observed<lora<linear<16, 48>, rank3>>>());
    stream<net, double> s(9);
    const auto z = decode<net, double>(w, matrix_view<const double>(x.data(), 9, 16), s);
    CHECK(distance(mox_test::flat(z), y) < 1e-12);

    using parts = attention<heads, mask::causal,
                            as_observed<with_each<with_lora<rank3>, as_frozen, with_lora<rank3>, as_frozen>>>;
    CHECK(observed_count<parts>() == 2);
    using small = with_weights<observed<linear<16, 5>>, weight::int8<>>;
    static_assert(std::is_same_v<small, observed<linear<16, 5, bias::none, false, weight::int8<>>>>);
}
