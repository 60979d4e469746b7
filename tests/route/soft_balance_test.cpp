#include <mox/route/soft_balance.hpp>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include <mox/route/all.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

// A router's view over given probabilities, all experts chosen.
struct view {
    std::vector<double> p, logits, lse, gate;
    std::vector<row_t> chosen, counts, offsets, labels;
    route::router_view<double> r;

    view(index_t experts, std::vector<double> probability, std::vector<row_t> sequence_offsets)
        : p(std::move(probability)), offsets(std::move(sequence_offsets)) {
        const index_t n = static_cast<index_t>(p.size()) / experts;
        for (const double v : p) logits.push_back(std::log(v));
        lse.assign(static_cast<std::size_t>(n), 0.0);
        chosen.resize(p.size());
        counts.assign(static_cast<std::size_t>(experts), static_cast<row_t>(n));
        gate = p;
        r.logits = {logits.data(), n, experts};
        r.probability = {p.data(), n, experts};
        route::all::select<double>({}, r.logits, chosen.data());
        r.log_sum_exp = lse.data();
        r.chosen = chosen.data();
        r.gate = gate.data();
        r.counts = counts.data();
        r.sequence_offsets = offsets.data();
        r.sequences = static_cast<index_t>(offsets.size()) - 1;
        r.experts = r.slots = experts;
    }
};

constexpr coefficient unit{1.0};

}  // namespace

TEST_CASE("entropy: one for the uniform distribution, zero for a certain one, the same for any order",
          "[route][entropy]") {
    const auto check = [](auto e) {
        using E = decltype(e);
        const double even[4] = {0.25, 0.25, 0.25, 0.25}, sure[4] = {1, 0, 0, 0},
                     a[4] = {0.5, 0.3, 0.15, 0.05}, b[4] = {0.05, 0.5, 0.15, 0.3};
        CHECK(E::value(even, 4) == Approx(1).margin(1e-3));
        CHECK(E::value(sure, 4) == Approx(0).margin(1e-3));
        CHECK(E::value(a, 4) == Approx(E::value(b, 4)).epsilon(1e-14));
        CHECK(E::value(a, 4) < E::value(even, 4));
    };
    check(entropy::shannon{});
    check(entropy::tsallis<>{});
    check(entropy::tsallis<coefficient{2.0}>{});
    check(entropy::renyi<>{});
    check(entropy::renyi<coefficient{1.5}>{});
}

TEST_CASE("entropy: formulas, gradients against differences, and one expert alone", "[route][entropy]") {
    const double p[5] = {0.4, 0.05, 0.3, 0.2, 0.05};
    double square = 0;
    for (const double v : p) square += (v + 1e-5) * (v + 1e-5);
    CHECK(entropy::renyi<>::value(p, 5) == Approx(-std::log(square + 1e-10) / std::log(5.0)));
    CHECK(entropy::tsallis<coefficient{2.0}>::value(p, 5) == Approx((1 - square) / (1 - 0.2)));
    const auto check = [&](auto e) {
        using E = decltype(e);
        std::vector<double> d(5, 1.0);
        E::add_gradient(p, 5, 3.0, d.data());
        for (std::size_t i = 0; i < 5; ++i) {
            double high[5], low[5];
            std::copy_n(p, 5, high);
            std::copy_n(p, 5, low);
            high[i] += 1e-6;
            low[i] -= 1e-6;
            const double slope = (E::value(high, 5) - E::value(low, 5)) / 2e-6;
            CHECK(d[i] == Approx(1 + 3 * slope).epsilon(1e-7));
        }
        const double sure = 1;
        double nothing = 7;
        CHECK(E::value(&sure, 1) == 0.0);
        E::add_gradient(&sure, 1, 3.0, &nothing);
        CHECK(nothing == 7.0);
    };
    check(entropy::shannon{});
    check(entropy::tsallis<>{});
    check(entropy::tsallis<coefficient{2.0}>{});
    check(entropy::renyi<>{});
    check(entropy::renyi<coefficient{0.5}>{});
}

TEST_CASE("soft losses: values that are known", "[route][balance]") {
    // Even probabilities, two tokens, four experts.
    const view even(4, std::vector<double>(8, 0.25), {0, 1, 2});
    CHECK(balance::soft_load<unit>::value(even.r) == Approx(1));
    CHECK(balance::counts<unit>::value(even.r) == Approx(4 * 2 * 0.5));
    CHECK(balance::specialisation<4, unit, coefficient{0.0}>::value(even.r) == Approx(0.25));
    CHECK(balance::specialisation<4, coefficient{0.0}, unit>::value(even.r) == Approx(std::log(4.0)));
    CHECK(balance::localised<unit, coefficient{0.0}>::value(even.r) == Approx(0).margin(1e-15));
    CHECK(balance::localised<unit, coefficient{0.1}>::value(even.r) > 0.01);
    // The masses of the sequences may have any scale.
    const view twice(4, std::vector<double>(16, 0.25), {0, 2, 4});
    CHECK(balance::localised<unit>::value(twice.r) == Approx(balance::localised<unit>::value(even.r)));
}

TEST_CASE("localised: labels say which experts a sequence belongs to", "[route][balance]") {
    view v(4, {0.4, 0.4, 0.1, 0.1, 0.1, 0.1, 0.4, 0.4}, {0, 1, 2});
    v.labels = {1, 0};
    v.r.sequence_labels = v.labels.data();
    const double matching = balance::localised<unit, coefficient{0.3}>::value(v.r);
    v.labels = {0, 1};
    const double other = balance::localised<unit, coefficient{0.3}>::value(v.r);
    // Minimising asks for less mass where the types match.
    CHECK(other < matching);
    for (const row_t type : {2, -1}) {
        v.labels = {0, type};
        CHECK_THROWS_WITH(
            balance::localised<unit>::value(v.r),
            Catch::Matchers::Contains(
                "mox::balance::localised: argument 'labels' must hold values from 0 to 1, got " +
                std::to_string(type) + " at position 1"));
    }
}

TEST_CASE("soft losses: no token", "[route][balance]") {
    const view none(4, {}, {0});
    std::vector<double> nothing;
    const matrix_view<double> d(nothing.data(), 0, 4);
    const auto check = [&](auto loss) {
        using L = decltype(loss);
        CHECK(L::value(none.r) == 0.0);
        L::gradient(none.r, 1.0, d, d);
    };
    check(balance::soft_load<unit>{});
    check(balance::counts<unit>{});
    check(balance::specialisation<>{});
    check(balance::mean_entropy<>{});
    check(balance::localised<>{});
}

TEST_CASE("specialisation: a probability of zero has no entropy and no gradient", "[route][balance]") {
    const auto check = [](auto zero) {
        using T = decltype(zero);
        // e^-1000 is zero in either type.
        const std::vector<T> logits{0, -1000}, lse{0}, p{1, 0};
        const std::vector<row_t> chosen{0, 1}, counts{1, 1}, offsets{0, 1};
        route::router_view<T> r;
        r.logits = {logits.data(), 1, 2};
        r.probability = {p.data(), 1, 2};
        r.log_sum_exp = lse.data();
        r.chosen = chosen.data();
        r.gate = p.data();
        r.counts = counts.data();
        r.sequence_offsets = offsets.data();
        r.sequences = 1;
        r.experts = r.slots = 2;
        using loss = balance::specialisation<1, coefficient{0.0}, unit>;
        CHECK(loss::value(r) == T(0));
        std::vector<T> dp(2, T(0)), dl(2, T(0));
        loss::gradient(r, T(1), matrix_view<T>(dp.data(), 1, 2), matrix_view<T>(dl.data(), 1, 2));
        for (const T v : {dp[0], dp[1], dl[0], dl[1]}) CHECK(v == T(0));
    };
    check(0.0);
    check(0.0f);
}

TEST_CASE("localised: one sequence and one expert have no variance", "[route][balance]") {
    const view one(1, {1.0, 1.0, 1.0}, {0, 3});
    CHECK(balance::localised<unit>::value(one.r) == 0.0);
    std::vector<double> d(3, 7.0);
    balance::localised<unit>::gradient(one.r, 1.0, matrix_view<double>(d.data(), 3, 1),
                                       matrix_view<double>(d.data(), 3, 1));
    CHECK(d == std::vector<double>(3, 7.0));
}

TEST_CASE("soft losses: coefficients that nobody states are the papers'", "[route][balance]") {
    using c = coefficient;
    STATIC_REQUIRE(std::is_same_v<balance::counts<>, balance::counts<c{1e-2}>>);
    STATIC_REQUIRE(std::is_same_v<balance::soft_load<>, balance::soft_load<c{1e-3}>>);
    STATIC_REQUIRE(
        std::is_same_v<balance::mean_entropy<>, balance::mean_entropy<entropy::tsallis<>, c{1e-2}>>);
    STATIC_REQUIRE(std::is_same_v<balance::localised<>, balance::localised<c{0.1}, c{0.1}>>);
    STATIC_REQUIRE(std::is_same_v<balance::specialisation<>, balance::specialisation<3, c{1.0}, c{-0.1}>>);
}
