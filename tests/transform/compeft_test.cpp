#include <mox/transform/compeft.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/golden.hpp"
#include "../support/layers.hpp"

using namespace mox;
using Catch::Matchers::Contains;

namespace {

void check_case(const std::string& name, std::initializer_list<const char*> keys,
                const compeft_options& options) {
    const mox_test::golden g(name);
    const auto joined = [&](const std::string& prefix) {
        std::vector<double> flat;
        for (const char* key : keys) {
            const auto v = g.tensor(prefix + key).values;
            flat.insert(flat.end(), v.begin(), v.end());
        }
        return flat;
    };
    const std::vector<double> flat = joined("in.");
    const ternary t = compress(std::span<const double>(flat), options);
    const auto positive = g.flags("out.pos").values, negative = g.flags("out.neg").values;
    REQUIRE(positive.size() == flat.size());
    for (std::size_t i = 0; i < flat.size(); ++i)
        CHECK(t.sign(static_cast<index_t>(i)) ==
              static_cast<int>(positive[i]) - static_cast<int>(negative[i]));
    CHECK(t.count() == static_cast<index_t>(g.integers("out.nnz").values.at(0)));
    CHECK(t.scale() == Approx(options.factor * g.tensor("out.std").values.at(0)).epsilon(1e-13));
    std::vector<double> restored(flat.size());
    t.write(std::span<double>(restored));
    CHECK(mox_test::distance(restored, g.tensor("out.flat").values) < 1e-13);
    CHECK(mox_test::distance(restored, joined("out.")) < 1e-13);
    CHECK(t.scale() == Approx(g.tensor("out.alpha").values.at(0)).epsilon(1e-13));
}

}  // namespace

TEST_CASE("golden: compeft", "[golden][transform]") {
    check_case("compeft-k20", {"layer0.A", "layer0.B"}, {.density = 0.2});
    check_case("compeft-ties", {"A", "B"}, {.density = 0.3, .factor = 2});
    CHECK(mox_test::unread("compeft-k20") == mox_test::nothing);
    CHECK(mox_test::unread("compeft-ties") == mox_test::nothing);
}

TEST_CASE("compeft: keeps the largest, and the same ones when applied twice", "[transform][compeft]") {
    const auto v = mox_test::normal_numbers<double>(1000, 3);
    for (const double density : {0.05, 0.5, 1.0}) {
        const ternary t = compress(std::span<const double>(v), {.density = density});
        CHECK(t.count() == (density < 1 ? static_cast<index_t>(1000 * density) + 1 : 1000));
        double least_kept = 1e9, most_dropped = 0;
        for (index_t i = 0; i < 1000; ++i) {
            const double x = v[static_cast<std::size_t>(i)];
            if (t.sign(i) != 0) CHECK(t.sign(i) == (x > 0 ? 1 : -1));
            if (t.sign(i) != 0) least_kept = std::min(least_kept, std::abs(x));
            if (t.sign(i) == 0) most_dropped = std::max(most_dropped, std::abs(x));
        }
        CHECK(least_kept >= most_dropped);
        std::vector<double> once(1000);
        t.write(std::span<double>(once));
        const ternary again = compress(std::span<const double>(once), {.density = density});
        for (index_t i = 0; i < 1000; ++i) CHECK(again.sign(i) == t.sign(i));
    }
    const ternary mean =
        compress(std::span<const double>(v), {.density = 0.1, .magnitude = ternary_magnitude::mean_kept});
    CHECK(mean.scale() > 1.9);  // 2.06 for a normal distribution
    CHECK(mean.scale() < 2.2);
    // Two bits an entry.
    CHECK(mean.bytes() < 1000 * sizeof(float) / 15);
}

TEST_CASE("compeft: dot products by counting", "[transform][compeft]") {
    const auto a = mox_test::normal_numbers<double>(777, 3), b = mox_test::normal_numbers<double>(777, 4);
    const ternary s = compress(std::span<const double>(a), {.density = 0.4}),
                  t = compress(std::span<const double>(b), {.density = 0.6});
    double expected = 0;
    for (index_t i = 0; i < 777; ++i) expected += s.scale() * t.scale() * s.sign(i) * t.sign(i);
    CHECK(dot(s, t) == Approx(expected).margin(1e-9));
    CHECK(dot(s, s) == Approx(s.scale() * s.scale() * static_cast<double>(s.count())));
}

TEST_CASE("compeft: bad input is refused, empty input is nothing", "[transform][compeft]") {
    std::vector<double> v{1, 2, std::numeric_limits<double>::quiet_NaN()};
    CHECK_THROWS_WITH(compress(std::span<const double>(v)), Contains("must hold finite numbers"));
    v.back() = std::numeric_limits<double>::infinity();
    CHECK_THROWS_WITH(compress(std::span<const double>(v)), Contains("must hold finite numbers"));
    v.back() = 3;
    CHECK_THROWS_WITH(compress(std::span<const double>(v), {.density = 0}),
                      Contains("'density' must lie in (0, 1]"));
    CHECK_THROWS_WITH(compress(std::span<const double>(v), {.density = 1.5}), Contains("'density'"));
    CHECK_THROWS_WITH(
        compress(std::span<const double>(v), {.factor = std::numeric_limits<double>::infinity()}),
        Contains("'factor' must be a finite number"));
    CHECK(compress(std::span<const double>()).size() == 0);
    const std::vector<double> zeros(10, 0.0), one{-4};
    CHECK(compress(std::span<const double>(zeros)).count() == 0);
    CHECK(compress(std::span<const double>(one)).sign(0) == -1);
    std::vector<double> to(4);
    CHECK_THROWS_AS(compress(std::span<const double>(v)).write(std::span<double>(to)), error);
}

TEST_CASE("compeft: the adapters of a network, there and back", "[transform][compeft]") {
    constexpr adapter_spec rank3{.rank = 3};
    using net = stack<frozen<linear<7, 9>>, lora<linear<9, 5>, rank3>>;
    auto w = mox_test::random_params<net, float>(4);
    const auto base = std::vector<float>(w.frozen().begin(), w.frozen().end());
    const ternary t = compress(w, {.density = 0.5});
    CHECK(t.size() == params<net>::trained_count());
    decompress(t, w);
    CHECK(std::vector<float>(w.frozen().begin(), w.frozen().end()) == base);
    index_t i = 0;
    for (const char* path : {"1.a", "1.b"}) {
        for (const float v : w.read(path)) CHECK(v == static_cast<float>(t.scale() * t.sign(i++)));
    }
    params<stack<linear<7, 9>>, float> other;
    const auto before = std::vector<float>(other.flat().begin(), other.flat().end());
    CHECK_THROWS_WITH(decompress(t, other), Contains("like what the network trains"));
    CHECK(std::vector<float>(other.flat().begin(), other.flat().end()) == before);
}

TEST_CASE("prune: keeps the entries that compress keeps, as they are", "[transform][compeft]") {
    auto v = mox_test::normal_numbers<double>(101, 3);
    v[7] = v[9] = -v[8];
    const auto before = v;
    for (const double density : {0.1, 0.35, 1.0}) {
        v = before;
        const auto t = mox::compress(std::span<const double>(v), {.density = density});
        mox::prune(std::span<double>(v), density);
        for (std::size_t i = 0; i < v.size(); ++i)
            CHECK(v[i] == (t.sign(static_cast<mox::index_t>(i)) == 0 ? 0.0 : before[i]));
        CHECK((v == before) == (density == 1));
    }
    CHECK_THROWS_WITH(mox::prune(std::span<double>(v), 0.0), Catch::Matchers::Contains("'density'"));
}

TEST_CASE("compeft: a product with numbers needs none", "[transform][compeft]") {
    const auto v = mox_test::normal_numbers<double>(150, 3), x = mox_test::normal_numbers<double>(150, 4);
    const auto t = mox::compress(std::span<const double>(v), {.density = 0.3, .factor = 2});
    double expected = 0;
    for (std::size_t i = 0; i < 150; ++i) expected += t.scale() * t.sign(static_cast<mox::index_t>(i)) * x[i];
    CHECK(t.dot(std::span<const double>(x)) == Approx(expected).epsilon(1e-12));
}

TEST_CASE("compeft: the mean of the kept sizes as the one number", "[transform][compeft]") {
    const std::vector<double> v{4, -2, 0.5, 0.25, -0.125};
    const auto t =
        mox::compress(std::span<const double>(v),
                      {.density = 0.2, .factor = 3, .magnitude = mox::ternary_magnitude::mean_kept});
    CHECK(t.count() == 2);
    CHECK(t.scale() == Approx(9));
}
