#include <mox/train/clip.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <mox/compose/stack.hpp>
#include <mox/exec/thread_pool.hpp>
#include <mox/layer/linear.hpp>
#include <mox/layer/norm.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using net = mox::stack<mox::linear<70, 333, mox::bias::with>, mox::rms_norm<333>, mox::linear<333, 5>>;

template <class T>
std::vector<T> fill(mox::params<net, T>& g, double scale) {
    std::vector<T> all;
    std::uint64_t seed = 5;
    for (const auto& t : mox::params<net, T>::tensors()) {
        const auto v = values::normal<T>(1, t.spec.logical_size(), seed++, scale).v;
        g.write(t, v);
        all.insert(all.end(), v.begin(), v.end());
    }
    return all;
}

template <class T>
std::vector<T> logical(const mox::params<net, T>& g) {
    std::vector<T> all;
    for (const auto& t : mox::params<net, T>::tensors()) {
        const auto v = g.read(t);
        all.insert(all.end(), v.begin(), v.end());
    }
    return all;
}

}  // namespace

TEMPLATE_TEST_CASE("the norm is the root of the sum of squares", "[train][clip]", float, double) {
    using T = TestType;
    mox::params<net, T> g;
    REQUIRE(mox::global_norm(g) == 0.0);
    const auto all = fill(g, 0.3);
    double sum = 0;
    for (const T x : all) sum += static_cast<double>(x) * static_cast<double>(x);
    const double bound = std::is_same_v<T, double> ? 1e-13 : 1e-6;
    REQUIRE(mox::global_norm(g) == Approx(std::sqrt(sum)).epsilon(bound));
    mox::thread_pool pool(3);
    REQUIRE(mox::global_norm(g, pool) == mox::global_norm(g));
}

TEMPLATE_TEST_CASE("gradients beyond the limit are scaled to it, others stay", "[train][clip]", float,
                   double) {
    using T = TestType;
    mox::params<net, T> g;
    const auto before = fill(g, 0.3);
    const double norm = mox::global_norm(g);
    REQUIRE(norm > 10);
    REQUIRE(mox::clip_by_global_norm(g, norm * 1.001) == norm);
    REQUIRE(values::same_bits(logical(g), before));
    REQUIRE(mox::clip_by_global_norm(g, 2.0) == norm);
    const auto after = logical(g);
    const double bound = std::is_same_v<T, double> ? 1e-13 : 1e-6;
    for (std::size_t i = 0; i < before.size(); ++i) {
        const double want = static_cast<double>(before[i]) * 2.0 / norm;
        REQUIRE(std::abs(static_cast<double>(after[i]) - want) <= bound * std::abs(want));
    }
    REQUIRE(mox::global_norm(g) == Approx(2.0).epsilon(1e-5));

    mox::params<net, T> h;
    (void)fill(h, 0.3);
    mox::thread_pool pool(2);
    REQUIRE(mox::clip_by_global_norm(h, 2.0, pool) == norm);
    REQUIRE(values::same_bits(logical(h), after));
}

TEST_CASE("gradients that are not finite stay as they are, and the norm says so", "[train][clip]") {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
        mox::params<net, float> g;
        (void)fill(g, 10.0);
        auto gain = g.read("1.gain");
        gain[200] = bad;
        g.write("1.gain", gain);
        const auto before = logical(g);
        REQUIRE_FALSE(std::isfinite(mox::clip_by_global_norm(g, 1.0)));
        REQUIRE(values::same_bits(logical(g), before));
    }
}

TEST_CASE("zero gradients stay zero, a limit must be positive", "[train][clip]") {
    mox::params<net, float> g;
    REQUIRE(mox::clip_by_global_norm(g, 1.0) == 0.0);
    for (const float x : g.flat()) REQUIRE(x == 0.0f);
    REQUIRE_THROWS_WITH(mox::clip_by_global_norm(g, 0.0),
                        "mox::clip_by_global_norm: argument 'limit' must be positive");
    REQUIRE_THROWS_AS(mox::clip_by_global_norm(g, -1.0), mox::error);
    REQUIRE_THROWS_AS(mox::clip_by_global_norm(g, std::nan("")), mox::error);
}
