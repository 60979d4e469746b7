#include <mox/layer/frozen.hpp>

#include <cstring>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using namespace mox_test;
using Catch::Matchers::Contains;

namespace {

constexpr attention_spec heads{.width = 16, .heads = 2};
template <class L>
using as_is = L;

// The same network with `F` around the layers that are to stay.
template <template <class> class F>
using blocks = stack<residual<F<rms_norm<16>>, F<attention<heads>>>,
                     residual<F<layer_norm<16>>, moe<experts<3, swiglu<16, 9>>, route::top_k<2>>>,
                     F<residual<rms_norm<16>, mlp<16, 8, activation::gelu, bias::with>>>>;
template <template <class> class F>
using network =
    stack<F<linear<6, 16, bias::with>>, F<repeat<2, stack<swiglu<16, 5>, F<rms_norm<16>>>>>,
          F<learned_positions<20, 16>>, repeat<2, blocks<F>>,
          depth<F<swiglu<16, 7>>, route::learned, keep_permille<500>>, F<linear<16, 5, bias::with>>>;
using partly = network<frozen>;
using free_net = network<as_is>;
using reader = stack<frozen<embedding<11, 16>>, frozen<rms_norm<16>>,
                     residual<frozen<rms_norm<16>>, linear<16, 16>>, linear<16, 5>>;

template <class Net>
params<Net, double> weights_like(const params<free_net, double>& from) {
    params<Net, double> to;
    copy_matching(from, to);
    return to;
}

}  // namespace

TEST_CASE("frozen: gradients pass through and those of the others are right", "[layer][frozen]") {
    gradcheck_options o;
    const auto r = gradcheck<partly>(o, batch::ragged({5, 1, 4}));
    INFO(r.message);
    CHECK(r.passed);
    for (const auto& row : r.rows) CHECK(row.path.find("gain") == std::string::npos);
    const auto ids = gradcheck<reader>(o, batch::ragged({5, 0, 4}));
    INFO(ids.message);
    CHECK(ids.passed);
    CHECK(ids.rows.size() == 2);
}

TEST_CASE("frozen: the same output and the same gradients as without", "[layer][frozen]") {
    const auto rows = batch::ragged({5, 1, 4});
    params<free_net, double> w(init::standard, 4);
    const auto held = weights_like<partly>(w);
    const auto x = normal_numbers<double>(60, 1), dy = normal_numbers<double>(50, 2);
    tape<free_net, double> t;
    tape<partly, double> u;
    CHECK(run_forward(w, x, rows, t) == run_forward(held, x, rows, u));
    params<free_net, double> g;
    params<partly, double> h;
    CHECK(run_backward(w, dy, t, g) == run_backward(held, dy, u, h));
    params<free_net, double> compared = g;
    copy_matching(h, compared);
    for (const auto& info : params<free_net, double>::tensors()) {
        INFO(info.path);
        CHECK(compared.read(info) == g.read(info));
    }
}

TEST_CASE("frozen: no memory for gradients and moments", "[layer][frozen]") {
    params<partly> weights(init::standard, 1), grads;
    CHECK(grads.frozen().empty());
    CHECK(!grads.complete());
    CHECK(weights.complete());
    CHECK(static_cast<index_t>(weights.flat().size()) == parameter_extent<partly, float>().trained);
    CHECK(static_cast<index_t>(weights.frozen().size()) == parameter_extent<partly, float>().frozen);
    CHECK(grads.flat().size() + weights.frozen().size() == params<free_net>().flat().size());
    CHECK(params<partly>::count() == params<free_net>::count());
    CHECK(params<partly>::trained_count() < params<partly>::count());
    CHECK(adamw<partly>().bytes() == 2 * grads.flat().size_bytes());
    // Everything frozen: nothing is left to train.
    CHECK(params<frozen<free_net>>().flat().empty());
    CHECK(params<frozen<free_net>>::trained_count() == 0);
}

TEST_CASE("frozen: training never changes a byte", "[layer][frozen]") {
    const auto rows = batch::equal(2, 6);
    params<partly> weights(init::standard, 5), grads;
    const std::vector<float> before(weights.frozen().begin(), weights.frozen().end());
    const std::vector<float> start(weights.flat().begin(), weights.flat().end());
    tape<partly> t;
    adamw<partly> adam{{.rate = 1e-2}};
    const auto x = normal_numbers<float>(72, 1), dy = normal_numbers<float>(60, 2);
    for (int step = 0; step < 20; ++step) {
        run_forward(weights, x, rows, t);
        run_backward(weights, dy, t, grads);
        clip_by_global_norm(grads, 1.0);
        adam.step(weights, grads);
    }
    REQUIRE(before.size() == weights.frozen().size());
    CHECK(std::memcmp(before.data(), weights.frozen().data(), before.size() * sizeof(float)) == 0);
    CHECK(std::memcmp(start.data(), weights.flat().data(), start.size() * sizeof(float)) != 0);
}

TEST_CASE("frozen: weights that were never written are refused", "[layer][frozen]") {
    const params<partly, double> empty;
    tape<partly, double> t;
    CHECK_THROWS_WITH(run_forward(empty, normal_numbers<double>(12, 1), batch::equal(1, 2), t),
                      Contains("argument 'weights' must hold the frozen tensors"));
    CHECK_THROWS_WITH(empty.read("0.0.weight"),
                      Contains("is frozen, and gradients hold only what is trained"));
    params<partly, double> written;
    written.write("0.0.weight", normal_numbers<double>(96, 1));
    CHECK(written.complete());
}

namespace {

// Counts how often its backward runs.
int backward_calls = 0;
struct counting {
    static constexpr index_t in = 4, out = 4;
    static constexpr std::array parameters{parameter{.name = "gain", .cols = 4}};
    static constexpr double flops(double) { return 4; }
    template <class T>
    static void forward(context<T>& ctx, param_ref<counting, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        for (index_t t = 0; t < x.rows; ++t) {
            for (index_t j = 0; j < 4; ++j) y(t, j) = w[0][j] * x(t, j);
        }
        ctx.save(x);
    }
    template <class T>
    static void backward(context<T>& ctx, param_ref<counting, const T> w, param_ref<counting, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        ++backward_calls;
        const auto x = ctx.template restore<matrix_view<const T>>();
        for (index_t j = 0; g && j < 4; ++j) {
            if (!ctx.accumulate) g[0][j] = 0;
            for (index_t t = 0; t < dy.rows; ++t) g[0][j] += dy(t, j) * x(t, j);
        }
        if (!ctx.input_gradient) return;
        for (index_t t = 0; t < dy.rows; ++t) {
            for (index_t j = 0; j < 4; ++j) dx(t, j) = w[0][j] * dy(t, j);
        }
    }
};

}  // namespace

TEST_CASE("frozen: nobody works on gradients before the first layer that is trained", "[layer][frozen]") {
    using net = stack<frozen<counting>, frozen<repeat<3, counting>>, stack<frozen<counting>, linear<4, 4>>,
                      frozen<counting>, linear<4, 2>>;
    params<net, double> w(init::standard, 1), g;
    tape<net, double> t;
    const auto x = normal_numbers<double>(12, 1);
    for (int step = 0; step < 2; ++step) {
        run_forward(w, x, batch::equal(1, 3), t);
        backward_calls = 0;
        mox::backward<net, double>(w, t, g);
        CHECK(backward_calls == 1);
    }
    // With the input's gradient wanted all of them are needed.
    CHECK(gradcheck<net>().passed);
}
