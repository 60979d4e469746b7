#include <mox/layer/observed.hpp>

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
                      adapted_mlp<16, 3, activation::gelu, A, bias::with>,
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
    // Two repetitions of qkv, out, block, shared; up, down; depth's block and its two maps; the adapter and
    // its map.
    CHECK(observed_count<shown>() == 2 * 4 + 2 + 3 + 2);
    CHECK(params<shown>::trained_count() == params<plain>::trained_count());
    CHECK(observed_count<plain>() == 0);
    CHECK(all.index.size() == 2 * 15);
    for (std::size_t i = 0; i < all.index.size(); ++i) CHECK(all.index[i] == static_cast<index_t>(i % 15));
    u.stop_observing();
    run_forward(v, x, rows, u);
    CHECK(all.index.size() == 2 * 15);
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
    mox_test::for_each_slope(w, g, value, [&](const tensor_info&, double slope, double gradient) {
        CHECK(std::abs(slope - gradient) < 1e-6 * std::max(1.0, std::abs(slope)));
        compared += std::abs(slope) > 1e-3 ? 1 : 0;
    });
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

namespace {

constexpr adapter_spec rank2{.rank = 2};
using pool = lora_pool<observed<linear<16, 16>>, pool_spec{.adapters = 2, .ranks = 4}>;
// Everything that runs layers inside, each time with another type under mox::observed.
using everything =
    stack<frozen<stack<observed<linear<6, 16>>, observed<rms_norm<16>>>>,
          residual<observed<layer_norm<16>>, observed<linear<16, 3>>, observed<linear<3, 16>>>,
          repeat<2, stack<observed<swiglu<16, 2>>, observed<swiglu<16, 3>>>>,
          moe<experts<2, swiglu<16, 5>>, route::top_k<1>, shared<observed<swiglu<16, 6>>>,
              shared<observed<swiglu<16, 7>>>>,
          attention<heads, mask::causal,
                    with_each<as_observed<with_lora<rank2>>, as_frozen, with_lora<rank3>,
                              as_observed<with_lora<rank2>>>>,
          adapted_mlp<16, 9, activation::gelu, as_observed<>, bias::with>, dora<linear<16, 16>, rank2>,
          lora_experts<observed<linear<16, 16, bias::with>>, 2, rank2, route::top_k<1>>,
          lora<observed<linear<16, 16, bias::with>>, rank3, rank_gate::strongest<2>>, pool,
          early_exit<exit_by<route::learned, keep_permille<600>>, observed<residual<swiglu<16, 10>>>,
                     observed<residual<swiglu<16, 11>>>>,
          observed<linear<16, 5>>>;

// Statistics of another network are refused, so this checks the order.
struct forgets {
    explicit forgets(index_t) {}
    template <class T>
    void add(matrix_view<const T>) {}
};

}  // namespace

TEST_CASE("observed: the order of the network, in everything that runs layers", "[layer][observed]") {
    const auto labelled = [] {
        auto b = batch::ragged({5, 0, 4});
        b.with_labels({0, 1, 1});
        return b;
    }();
    auto w = random_params<everything, double>(4, 0.3);
    for (const auto& info : params<everything, double>::tensors()) {
        if (info.path.ends_with(".first")) w.write(info, std::vector<double>{0, 2});
        if (info.path.ends_with(".rank")) w.write(info, std::vector<double>{2, 2});
    }
    input_statistics<everything, forgets> inputs;
    CHECK(static_cast<index_t>(inputs.entries().size()) == observed_count<everything>());
    tape<everything, double> t;
    params<everything, double> g;
    keeps all;
    const auto x = normal_numbers<double>(54, 1), dy = normal_numbers<double>(45, 2);
    for (int pass = 0; pass < 2; ++pass) {
        t.observe(inputs);
        run_forward(w, x, labelled, t);
        run_backward(w, dy, t, g);
        run_infer(w, x, labelled, t);
        t.observe(all);
        run_forward(w, x, labelled, t);
    }
    CHECK(static_cast<index_t>(all.index.size()) == 2 * observed_count<everything>());
}

TEST_CASE("observed: backward shows what needs a gradient, to whom forward was shown", "[layer][observed]") {
    struct counts {
        std::vector<index_t> forward, back;
        void operator()(const observation<double>& seen) { forward.push_back(seen.index); }
        void backward(const observation<double>& seen, matrix_view<double> dx) {
            CHECK(dx.rows == seen.x.rows);
            CHECK(dx.cols == seen.x.cols);
            back.push_back(seen.index);
        }
    };
    using net = stack<frozen<observed<linear<6, 16>>>, observed<linear<16, 16>>,
                      repeat<2, observed<residual<linear<16, 16>>>>>;
    const auto w = random_params<net, double>(4);
    const auto x = normal_numbers<double>(54, 1), dy = normal_numbers<double>(9 * 16, 2);
    tape<net, double> t;
    params<net, double> g;
    counts first, second;
    const auto forward = [&] {
        first.back.clear();
        run_forward(w, x, rows, t);
        const auto to = t.output_grad();
        for (index_t i = 0; i < 9; ++i) std::copy_n(dy.data() + i * 16, 16, to.row(i));
    };
    t.observe(first);
    forward();
    t.observe(second);
    mox::backward<net, double>(w, t, g);
    CHECK(first.forward == std::vector<index_t>{0, 1, 2, 3});
    CHECK(first.back == std::vector<index_t>{3, 2});
    CHECK(second.back.empty());
    // With the gradient of the input all of them.
    t.observe(first);
    forward();
    run_backward(w, dy, t, g);
    CHECK(first.back == std::vector<index_t>{3, 2, 1, 0});
    // A block that this step does not train passes the gradient on.
    trainable_mask<net, double> mask;
    mask.only(std::vector<index_t>{0});
    forward();
    mox::backward<net, double>(w, t, g, mask);
    CHECK(first.back == std::vector<index_t>{3, 2});
    forward();
    t.stop_observing();
    run_backward(w, dy, t, g);
    CHECK(first.back.empty());
}

TEST_CASE("observed: a loss on inner inputs under a mask and over two steps", "[layer][observed]") {
    using net = stack<linear<6, 16>, repeat<2, observed<residual<swiglu<16, 4>>>>>;
    const auto w = random_params<net, double>(4);
    const auto x = normal_numbers<double>(54, 1);
    tape<net, double> t;
    params<net, double> g, twice, masked;
    squares loss;
    t.observe(loss);
    const std::vector<double> none(9 * 16, 0.0);
    const auto forward = [&] {
        run_forward(w, x, rows, t);
        const auto to = t.output_grad();
        for (index_t i = 0; i < 9; ++i) std::fill_n(to.row(i), 16, 0.0);
    };
    forward();
    mox::backward<net, double>(w, t, g);
    for (int i = 0; i < 2; ++i) {
        forward();
        mox::backward_accumulate<net, double>(w, t, twice);
    }
    std::vector<double> half(twice.flat().begin(), twice.flat().end());
    for (double& v : half) v /= 2;
    CHECK(distance(half, std::vector<double>(g.flat().begin(), g.flat().end())) < 1e-14);
    trainable_mask<net, double> mask;
    mask.only({});
    forward();
    mox::backward<net, double>(w, t, masked, mask);
    CHECK(masked.read("0.weight") == g.read("0.weight"));
    for (const double v : masked.read("1.0.0.0.gate_up")) CHECK(v == 0);
}
