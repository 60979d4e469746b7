// Properties of null experts (AdaMoE).

#include <vector>

#include <mox/compose/stack.hpp>
#include <mox/layer/moe.hpp>
#include <mox/model/run.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;

template <class... Policies>
using mixture = mox::stack<mox::moe<mox::experts<5, mox::swiglu<12, 20>>, Policies...>>;

template <class Net, class T>
struct run_result {
    values::matrix<T> y, dx;
    std::vector<T> router_grad;
    T aux = 0;
};

template <class Net, class T>
run_result<Net, T> run(const mox::params<Net, T>& w, const values::matrix<T>& x, mox::params<Net, T>& g) {
    mox::tape<Net, T> tape;
    run_result<Net, T> r;
    r.y = values::copy(mox::forward<Net>(w, x, tape));
    values::assign(tape.output_grad(), values::normal<T>(x.rows(), 12, 77));
    r.dx = values::matrix<T>(x.rows(), 12);
    mox::backward<Net>(w, tape, g, mox::matrix_view<T>(r.dx.data(), x.rows(), 12));
    r.aux = tape.aux_loss();
    return r;
}

}  // namespace

TEMPLATE_TEST_CASE("no null experts is top-k bit for bit", "[property][null_experts]", float, double) {
    using plain = mixture<mox::route::top_k<2>, mox::balance::load<>, mox::balance::z_loss<>>;
    using zero =
        mixture<mox::balance::load<>, mox::balance::z_loss<>, mox::null_experts<0>, mox::route::top_k<2>>;
    const mox::params<plain, TestType> wp{mox::init::standard, 5};
    const mox::params<zero, TestType> wz{mox::init::standard, 5};
    mox::params<plain, TestType> gp;
    mox::params<zero, TestType> gz;
    const auto x = values::normal<TestType>(37, 12, 1);
    const auto a = run(wp, x, gp);
    const auto b = run(wz, x, gz);
    REQUIRE(a.y == b.y);
    REQUIRE(a.dx == b.dx);
    REQUIRE(a.aux == b.aux);
    REQUIRE(a.aux > 0);
    const std::vector<TestType> fp(gp.flat().begin(), gp.flat().end()),
        fz(gz.flat().begin(), gz.flat().end());
    REQUIRE(values::same_bits(fp, fz));
    // The result is not trivially zero.
    REQUIRE(values::largest_difference(a.y, values::matrix<TestType>(37, 12)) > 1e-6);
}

TEST_CASE("null logits shift the cost, never the other gates among themselves", "[property][null_experts]") {
    // The first input is always 1, so row 0 of the router is a bias: adding to its null columns adds one
    // constant to all null logits.
    constexpr index_t E = 5, M = 3, D = 12, N = 60;
    using net = mixture<mox::route::top_k<4>, mox::null_experts<M>>;
    mox::params<net, double> w{mox::init::standard, 9};
    auto x = values::normal<double>(N, D, 2);
    for (index_t t = 0; t < N; ++t) x(t, 0) = 1.0;
    auto router = w.read("0.router");
    REQUIRE(router.size() == static_cast<std::size_t>(D * (E + M)));
    for (double& r : router) r *= 20;
    const auto original = router;

    mox::tape<net, double> tape;
    // Expected by plain loops from the logits: the k largest, ties to the lowest, softmax over true ones.
    const auto experts_output = [&](index_t t, index_t e) {
        const auto gate_up = w.read("0.gate_up");
        const auto down = w.read("0.down");
        constexpr index_t H = 20;
        std::vector<double> h(H), y(D, 0.0);
        for (index_t j = 0; j < H; ++j) {
            double a = 0, b = 0;
            for (index_t i = 0; i < D; ++i) {
                a += x(t, i) * gate_up[static_cast<std::size_t>((e * D + i) * 2 * H + j)];
                b += x(t, i) * gate_up[static_cast<std::size_t>((e * D + i) * 2 * H + H + j)];
            }
            h[static_cast<std::size_t>(j)] = a / (1 + std::exp(-a)) * b;
        }
        for (index_t j = 0; j < H; ++j) {
            for (index_t i = 0; i < D; ++i) {
                y[static_cast<std::size_t>(i)] +=
                    h[static_cast<std::size_t>(j)] * down[static_cast<std::size_t>((e * H + j) * D + i)];
            }
        }
        return y;
    };
    index_t last_nulls = -1;
    for (const double shift : {-100.0, -1.0, 0.0, 0.7, 100.0}) {
        router = original;
        for (index_t m = 0; m < M; ++m) router[static_cast<std::size_t>(E + m)] += shift;
        w.write("0.router", router);
        const auto y = values::copy(mox::infer<net>(w, x, tape));
        index_t nulls = 0;
        double worst = 0;
        for (index_t t = 0; t < N; ++t) {
            std::vector<double> l(E + M, 0.0);
            for (index_t i = 0; i < D; ++i) {
                for (index_t e = 0; e < E + M; ++e) {
                    l[static_cast<std::size_t>(e)] +=
                        x(t, i) * router[static_cast<std::size_t>(i * (E + M) + e)];
                }
            }
            std::vector<index_t> order;
            for (index_t e = 0; e < E + M; ++e) order.push_back(e);
            std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) {
                return l[static_cast<std::size_t>(a)] > l[static_cast<std::size_t>(b)];
            });
            double sum = 0;
            std::vector<double> want(D, 0.0);
            for (index_t j = 0; j < 4; ++j) {
                const index_t e = order[static_cast<std::size_t>(j)];
                nulls += e >= E ? 1 : 0;
                if (e >= E) continue;
                const double g = std::exp(l[static_cast<std::size_t>(e)]);
                sum += g;
                const auto f = experts_output(t, e);
                for (index_t i = 0; i < D; ++i)
                    want[static_cast<std::size_t>(i)] += g * f[static_cast<std::size_t>(i)];
            }
            for (index_t i = 0; i < D; ++i) {
                const double v = sum > 0 ? want[static_cast<std::size_t>(i)] / sum : 0.0;
                worst = std::max(worst, std::abs(v - y(t, i)));
            }
        }
        REQUIRE(worst < 1e-12);
        const auto stats = tape.stats<net::first>();
        REQUIRE(stats.nulls == nulls);
        REQUIRE(nulls >= last_nulls);
        last_nulls = nulls;
        if (shift == -100.0) REQUIRE(nulls == 0);
        if (shift == 100.0) REQUIRE(nulls == N * M);
    }
}

TEST_CASE("the ratio of two gates survives a shift of the null logits", "[property][null_experts]") {
    // Two experts, three nulls, k = 4: two or three nulls are chosen, or two experts and two nulls. While
    // both experts stay chosen, the output must not change by a single bit when the null logits move
    // together.
    using net =
        mox::stack<mox::moe<mox::experts<2, mox::swiglu<8, 8>>, mox::route::top_k<4>, mox::null_experts<3>>>;
    mox::params<net, float> w{mox::init::standard, 4};
    auto x = values::normal<float>(50, 8, 2);
    for (index_t t = 0; t < 50; ++t) x(t, 0) = 1.0f;
    mox::tape<net, float> tape;
    const auto original = w.read("0.router");
    const auto before = values::copy(mox::infer<net>(w, x, tape));
    const auto chosen_of = [&] {
        const auto& r = tape.routing()[0];
        std::vector<int> both;
        for (index_t t = 0; t < r.rows; ++t) {
            int n = 0;
            for (index_t j = 0; j < r.slots; ++j) n += r.chosen[t * r.slots + j] < 2 ? 1 : 0;
            both.push_back(n == 2 ? 1 : 0);
        }
        return both;
    };
    const auto both_before = chosen_of();
    auto router = original;
    for (std::size_t m = 0; m < 3; ++m) router[2 + m] -= 0.05f;
    w.write("0.router", router);
    const auto after = values::copy(mox::infer<net>(w, x, tape));
    const auto both_after = chosen_of();
    index_t compared = 0, changed = 0;
    for (index_t t = 0; t < 50; ++t) {
        const auto i = static_cast<std::size_t>(t);
        if (both_before[i] != both_after[i]) ++changed;
        if (both_before[i] == 0) continue;
        REQUIRE(both_after[i] == 1);  // lower null logits never push a true expert out
        REQUIRE(values::middle(before, t, 1) == values::middle(after, t, 1));
        ++compared;
    }
    REQUIRE(compared > 0);
    REQUIRE(changed > 0);
}

TEST_CASE("a token that chose only null experts gets nothing but the shared layers",
          "[property][null_experts]") {
    using lonely = mixture<mox::route::top_k<2>, mox::null_experts<2>>;
    using helped = mixture<mox::route::top_k<2>, mox::null_experts<2>, mox::shared<mox::swiglu<12, 16>>>;
    auto x = values::normal<double>(9, 12, 3);
    for (index_t t = 0; t < 9; ++t) x(t, 0) = 1.0;
    const auto raise = [](auto& w) {
        auto r = w.read("0.router");
        r[5] += 1000;
        r[6] += 1000;
        w.write("0.router", r);
    };
    mox::params<lonely, double> wl{mox::init::standard, 1};
    raise(wl);
    mox::tape<lonely, double> tl;
    REQUIRE(values::copy(mox::infer<lonely>(wl, x, tl)) == values::matrix<double>(9, 12));
    REQUIRE(tl.stats<lonely::first>().nulls == 18);

    mox::params<helped, double> wh{mox::init::standard, 1};
    raise(wh);
    using dense = mox::stack<mox::swiglu<12, 16>>;
    mox::params<dense, double> wd;
    wd.write("0.gate_up", wh.read("0.0.gate_up"));
    wd.write("0.down", wh.read("0.0.down"));
    mox::tape<helped, double> th;
    mox::tape<dense, double> td;
    REQUIRE(values::copy(mox::infer<helped>(wh, x, th)) == values::copy(mox::infer<dense>(wd, x, td)));
}
