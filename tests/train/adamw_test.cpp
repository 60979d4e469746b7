#include <mox/train/adamw.hpp>

#include <cmath>
#include <string>
#include <vector>

#include <mox/compose/repeat.hpp>
#include <mox/compose/residual.hpp>
#include <mox/compose/stack.hpp>
#include <mox/exec/thread_pool.hpp>
#include <mox/layer/attention.hpp>
#include <mox/layer/depth.hpp>
#include <mox/layer/linear.hpp>
#include <mox/layer/moe.hpp>
#include <mox/layer/norm.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;

constexpr mox::attention_spec heads{.width = 10, .heads = 5};
using block = mox::stack<
    mox::residual<mox::layer_norm<10>, mox::attention<heads>>,
    mox::residual<mox::rms_norm<10>,
                  mox::moe<mox::experts<3, mox::mlp<10, 13, mox::activation::gelu, mox::bias::with>>,
                           mox::route::top_k<2>, mox::shared<mox::swiglu<10, 7>>>>>;
using net = mox::stack<mox::embedding<11, 10>, mox::repeat<2, block>,
                       mox::depth<block, mox::route::learned, mox::keep_permille<500>>,
                       mox::linear<10, 11, mox::bias::with>>;

template <class T>
void fill_gradients(mox::params<net, T>& g, std::uint64_t seed) {
    for (const auto& t : mox::params<net, T>::tensors()) {
        g.write(t, values::normal<T>(1, t.spec.logical_size(), seed++).v);
    }
}

// Norms, biases and the vector of a depth router do not decay; a mixture's router is a matrix and does.
bool decays(const std::string& path) {
    for (const char* end : {".gain", ".shift", "bias"}) {
        const std::string e(end);
        if (path.size() >= e.size() && path.compare(path.size() - e.size(), e.size(), e) == 0) return false;
    }
    return path != "2.router";
}

}  // namespace

TEMPLATE_TEST_CASE("three steps equal plain loops over the tensors", "[train][adamw]", float, double) {
    using T = TestType;
    const mox::adamw_options options{.rate = 0.01, .beta1 = 0.8, .beta2 = 0.9, .epsilon = 1e-6, .decay = 0.3};
    mox::params<net, T> w{mox::init::standard, 1}, g;
    mox::adamw<net, T> optimiser(options);
    const auto tensors = mox::params<net, T>::tensors();
    std::vector<std::vector<double>> want, m, v;
    for (const auto& t : tensors) {
        const auto values = w.read(t);
        want.emplace_back(values.begin(), values.end());
        m.emplace_back(values.size(), 0.0);
        v.emplace_back(values.size(), 0.0);
    }
    const double factors[] = {1.0, 0.25, 2.0};
    for (int step = 1; step <= 3; ++step) {
        fill_gradients(g, static_cast<std::uint64_t>(100 * step));
        const double rate = options.rate * factors[step - 1];
        for (std::size_t i = 0; i < tensors.size(); ++i) {
            const auto gradient = g.read(tensors[i]);
            for (std::size_t j = 0; j < gradient.size(); ++j) {
                const double d = static_cast<double>(gradient[j]);
                m[i][j] = 0.8 * m[i][j] + 0.2 * d;
                v[i][j] = 0.9 * v[i][j] + 0.1 * d * d;
                const double mean = m[i][j] / (1 - std::pow(0.8, step));
                const double square = v[i][j] / (1 - std::pow(0.9, step));
                const double decay = decays(tensors[i].path) ? 0.3 * want[i][j] : 0.0;
                want[i][j] -= rate * (mean / (std::sqrt(square) + 1e-6) + decay);
            }
        }
        optimiser.step(w, g, factors[step - 1]);
        REQUIRE(optimiser.steps() == step);
    }
    const double bound = std::is_same_v<T, double> ? 1e-13 : 2e-6;
    int without = 0;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        INFO(tensors[i].path);
        REQUIRE(tensors[i].spec.decays == decays(tensors[i].path));
        without += decays(tensors[i].path) ? 0 : 1;
        const auto got = w.read(tensors[i]);
        double worst = 0;
        for (std::size_t j = 0; j < got.size(); ++j) {
            worst = std::max(worst, std::abs(static_cast<double>(got[j]) - want[i][j]));
        }
        REQUIRE(worst <= bound);
    }
    REQUIRE(without == 3 * (2 + 1 + 2) + 1 + 1);
}

TEST_CASE("decay shrinks matrices only, without any gradient", "[train][adamw]") {
    mox::params<net, double> w{mox::init::standard, 1};
    const mox::params<net, double> before = w, g;
    mox::adamw<net, double> optimiser({.rate = 0.5, .decay = 0.1});
    optimiser.step(w, g);
    for (const auto& t : mox::params<net, double>::tensors()) {
        INFO(t.path);
        const auto a = before.read(t), b = w.read(t);
        for (std::size_t i = 0; i < a.size(); ++i) {
            if (decays(t.path)) {
                REQUIRE(b[i] == Approx(0.95 * a[i]).epsilon(1e-14));
            } else {
                REQUIRE(b[i] == a[i]);
            }
        }
    }
}

TEST_CASE("a factor of zero and a rate of zero change nothing", "[train][adamw]") {
    mox::params<net, float> w{mox::init::standard, 1}, g;
    const auto before = std::vector<float>(w.flat().begin(), w.flat().end());
    fill_gradients(g, 3);
    mox::adamw<net, float> optimiser;
    optimiser.step(w, g, 0.0);
    REQUIRE(values::same_bits(std::vector<float>(w.flat().begin(), w.flat().end()), before));
    optimiser.options().rate = 0;
    optimiser.step(w, g);
    REQUIRE(values::same_bits(std::vector<float>(w.flat().begin(), w.flat().end()), before));
    optimiser.options().rate = 0.1;
    optimiser.step(w, g);
    REQUIRE_FALSE(values::same_bits(std::vector<float>(w.flat().begin(), w.flat().end()), before));
}

TEST_CASE("padding stays zero", "[train][adamw]") {
    mox::params<net, float> w{mox::init::standard, 1}, g;
    mox::adamw<net, float> optimiser;
    fill_gradients(g, 3);
    for (int i = 0; i < 3; ++i) optimiser.step(w, g);
    // What is not in a tensor: set all tensors to zero, nothing may be left.
    for (const auto& t : mox::params<net>::tensors()) {
        w.write(t, std::vector<float>(static_cast<std::size_t>(t.spec.logical_size())));
    }
    for (const float x : w.flat()) REQUIRE(x == 0.0f);
}

TEST_CASE("the defaults are those of the definition, nonsense is refused", "[train][adamw]") {
    const mox::adamw<net> optimiser;
    REQUIRE(optimiser.options().beta1 == 0.9);
    REQUIRE(optimiser.options().beta2 == 0.95);
    REQUIRE(optimiser.options().epsilon == 1e-8);
    REQUIRE(optimiser.options().decay == 0.1);
    REQUIRE(optimiser.steps() == 0);
    const auto make = [](const mox::adamw_options& o) { return mox::adamw<net>(o); };
    REQUIRE_THROWS_WITH(
        make({.rate = -1}),
        "mox::adamw: options 'rate' and 'decay' must not be negative and 'epsilon' must be positive");
    REQUIRE_THROWS_AS(make({.epsilon = 0}), mox::error);
    REQUIRE_THROWS_WITH(make({.beta1 = 1}), "mox::adamw: options 'beta1' and 'beta2' must lie in [0, 1)");
    REQUIRE_THROWS_AS(make({.beta2 = -0.1}), mox::error);
    REQUIRE_THROWS_WITH(make({.decay = -0.1}), Catch::Matchers::Contains("'decay'"));
    REQUIRE_THROWS_WITH(make({.decay = std::nan("")}), Catch::Matchers::Contains("'decay'"));
    REQUIRE_NOTHROW(make({.rate = 0, .beta1 = 0, .beta2 = 0}));
}

TEST_CASE("threads do not change a step", "[train][adamw]") {
    using large = mox::stack<mox::linear<300, 333, mox::bias::with>, mox::rms_norm<333>>;
    mox::params<large> a{mox::init::standard, 1}, b = a, g;
    for (float& x : g.flat()) x = 0.1f;
    mox::adamw<large> one, two;
    mox::thread_pool pool(3);
    for (int i = 0; i < 3; ++i) {
        one.step(a, g);
        two.step(b, g, 1.0, pool);
    }
    REQUIRE(values::same_bits(std::vector<float>(a.flat().begin(), a.flat().end()),
                              std::vector<float>(b.flat().begin(), b.flat().end())));
}
