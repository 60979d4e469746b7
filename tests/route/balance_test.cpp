#include <mox/route/balance.hpp>

#include <cmath>
#include <vector>

#include <mox/core/random.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

// A router with its own memory. Choices stay fixed when logits move.
struct router {
    index_t tokens, outputs, experts, slots;
    std::vector<double> logits;
    std::vector<row_t> chosen;
    std::vector<row_t> sequence_offsets;
    std::vector<double> probability, lse;
    std::vector<row_t> counts;

    route::router_view<double> view() {
        probability.assign(logits.size(), 0);
        lse.assign(static_cast<std::size_t>(tokens), 0);
        counts.assign(static_cast<std::size_t>(outputs), 0);
        for (index_t t = 0; t < tokens; ++t) {
            double sum = 0;
            for (index_t e = 0; e < outputs; ++e)
                sum += std::exp(logits[static_cast<std::size_t>(t * outputs + e)]);
            lse[static_cast<std::size_t>(t)] = std::log(sum);
            for (index_t e = 0; e < outputs; ++e) {
                const auto i = static_cast<std::size_t>(t * outputs + e);
                probability[i] = std::exp(logits[i]) / sum;
            }
        }
        for (row_t e : chosen) ++counts[static_cast<std::size_t>(e)];
        route::router_view<double> r;
        r.logits = matrix_view<const double>(logits.data(), tokens, outputs);
        r.probability = matrix_view<const double>(probability.data(), tokens, outputs);
        r.log_sum_exp = lse.data();
        r.chosen = chosen.data();
        r.counts = counts.data();
        r.sequence_offsets = sequence_offsets.data();
        r.sequences = static_cast<index_t>(sequence_offsets.size()) - 1;
        r.experts = experts;
        r.slots = slots;
        return r;
    }
    template <class Loss>
    double value() {
        return Loss::template value<double>(view());
    }
};

router random_router(index_t tokens, index_t experts, index_t nulls, index_t slots, std::uint64_t seed) {
    router r{tokens, experts + nulls, experts, slots, {}, {}, {0, static_cast<row_t>(tokens)}, {}, {}, {}};
    const random_stream numbers(seed, 2);
    for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(tokens * r.outputs); ++i) {
        r.logits.push_back(1.5 * numbers.normal(i));
    }
    for (index_t t = 0; t < tokens; ++t) {
        const index_t first =
            static_cast<index_t>(numbers.bits(static_cast<std::uint64_t>(9999 + t))) % r.outputs;
        for (index_t j = 0; j < slots; ++j) r.chosen.push_back(static_cast<row_t>((first + j) % r.outputs));
    }
    return r;
}

template <class Loss>
void check_gradient(router r, double scale) {
    const auto v = r.view();
    std::vector<double> dp(r.logits.size(), 0.25), dl(r.logits.size(), -0.5);
    Loss::template gradient<double>(v, scale, matrix_view<double>(dp.data(), r.tokens, r.outputs),
                                    matrix_view<double>(dl.data(), r.tokens, r.outputs));
    for (index_t t = 0; t < r.tokens; ++t) {
        double mean = 0;
        for (index_t e = 0; e < r.outputs; ++e) {
            const auto i = static_cast<std::size_t>(t * r.outputs + e);
            mean += (dp[i] - 0.25) * r.probability[i];
        }
        for (index_t e = 0; e < r.outputs; ++e) {
            const auto i = static_cast<std::size_t>(t * r.outputs + e);
            // What was there before stays: gradients are added.
            const double analytic = dl[i] + 0.5 + r.probability[i] * (dp[i] - 0.25 - mean);
            router up = r, down = r;
            up.logits[i] += 1e-5;
            down.logits[i] -= 1e-5;
            const double numeric = scale * (up.value<Loss>() - down.value<Loss>()) / 2e-5;
            CHECK(analytic == Approx(numeric).margin(1e-9));
        }
    }
}

using load = balance::load<coefficient{0.3}>;
using per_sequence = balance::load_per_sequence<coefficient{0.7}>;
using z = balance::z_loss<coefficient{0.2}>;

}  // namespace

TEST_CASE("balance: the load loss of a balanced router is its coefficient", "[route][balance]") {
    // Uniform probabilities: balanced whatever the choices.
    router r{4, 4, 4, 1, std::vector<double>(16, 0.5), {0, 1, 2, 3}, {0, 4}, {}, {}, {}};
    CHECK(r.value<load>() == Approx(0.3).epsilon(1e-14));
    // Uniform choices and mean probabilities, though no single row is uniform.
    router turned{3, 3, 3, 1, {2, 0, 0, 0, 2, 0, 0, 0, 2}, {0, 1, 2}, {0, 3}, {}, {}, {}};
    CHECK(turned.value<load>() == Approx(0.3).epsilon(1e-14));
    CHECK(turned.value<balance::load<>>() == Approx(0.01).epsilon(1e-14));
}

TEST_CASE("balance: the load loss rises with imbalance up to E times its coefficient", "[route][balance]") {
    double last = 0.3;
    for (const double tilt : {0.5, 1.0, 2.0, 5.0}) {
        router r{4, 4, 4, 1, {}, {0, 0, 0, 0}, {0, 4}, {}, {}, {}};
        for (index_t t = 0; t < 4; ++t) r.logits.insert(r.logits.end(), {tilt, 0, 0, 0});
        const double value = r.value<load>();
        CHECK(value > last);
        CHECK(value < 4 * 0.3);
        last = value;
    }
    router all{2, 4, 4, 1, {300, 0, 0, 0, 300, 0, 0, 0}, {0, 0}, {0, 2}, {}, {}, {}};
    CHECK(all.value<load>() == Approx(4 * 0.3).epsilon(1e-12));
}

TEST_CASE("balance: the load loss against its formula, with and without null experts", "[route][balance]") {
    for (const index_t nulls : {index_t{0}, index_t{1}, index_t{3}}) {
        router r = random_router(11, 4, nulls, 2, static_cast<std::uint64_t>(40 + nulls));
        r.view();
        const index_t outputs = 4 + nulls;
        double expected = 0, null_frequency = 0;
        std::vector<double> f(static_cast<std::size_t>(outputs), 0);
        for (row_t e : r.chosen) f[static_cast<std::size_t>(e)] += 1.0 / 22.0;
        for (index_t e = 4; e < outputs; ++e)
            null_frequency += f[static_cast<std::size_t>(e)] / static_cast<double>(nulls);
        for (index_t e = 0; e < outputs; ++e) {
            double p = 0;
            for (index_t t = 0; t < 11; ++t)
                p += r.probability[static_cast<std::size_t>(t * outputs + e)] / 11.0;
            expected += (e < 4 ? f[static_cast<std::size_t>(e)] : null_frequency) * p;
        }
        CHECK(r.value<load>() == Approx(0.3 * static_cast<double>(outputs) * expected).epsilon(1e-13));
    }
}

TEST_CASE("balance: which null expert was chosen does not matter", "[route][balance]") {
    router a = random_router(9, 3, 3, 2, 8), b = a;
    for (row_t& e : b.chosen) e = e == 3 ? 4 : e == 4 ? 5 : e == 5 ? 3 : e;
    CHECK(a.value<load>() == Approx(b.value<load>()).epsilon(1e-14));
    for (row_t& e : b.chosen) e = e == 1 ? 0 : e;
    CHECK(a.value<load>() != Approx(b.value<load>()).epsilon(1e-6));
}

TEST_CASE("balance: per sequence is the mean of the losses of the sequences", "[route][balance]") {
    router all = random_router(10, 4, 2, 2, 3);
    all.sequence_offsets = {0, 4, 4, 5, 10};
    double expected = 0;
    for (const auto& [begin, end] : {std::pair<index_t, index_t>{0, 4}, {4, 5}, {5, 10}}) {
        router one{end - begin, 6, 4, 2, {}, {}, {0, static_cast<row_t>(end - begin)}, {}, {}, {}};
        one.logits.assign(all.logits.begin() + begin * 6, all.logits.begin() + end * 6);
        one.chosen.assign(all.chosen.begin() + begin * 2, all.chosen.begin() + end * 2);
        expected += one.value<balance::load<coefficient{0.7}>>() / 4;
    }
    CHECK(all.value<per_sequence>() == Approx(expected).epsilon(1e-13));
    all.sequence_offsets = {0, 10};
    CHECK(all.value<per_sequence>() == Approx(all.value<balance::load<coefficient{0.7}>>()).epsilon(1e-13));
}

TEST_CASE("balance: z-loss is the mean squared log-sum-exp", "[route][balance]") {
    router r = random_router(6, 3, 1, 1, 12);
    double expected = 0;
    for (index_t t = 0; t < 6; ++t) {
        double sum = 0;
        for (index_t e = 0; e < 4; ++e) sum += std::exp(r.logits[static_cast<std::size_t>(t * 4 + e)]);
        expected += std::log(sum) * std::log(sum) / 6;
    }
    CHECK(r.value<z>() == Approx(0.2 * expected).epsilon(1e-13));
    // Two logits of -ln 2 have log-sum-exp 0.
    router zero{1, 2, 2, 1, {-std::log(2.0), -std::log(2.0)}, {0}, {0, 1}, {}, {}, {}};
    CHECK(std::abs(zero.value<z>()) < 1e-30);
}

TEST_CASE("balance: gradients against central differences", "[route][balance]") {
    for (const double scale : {1.0, 0.25}) {
        router r = random_router(7, 4, 0, 2, 21), n = random_router(7, 3, 2, 2, 22);
        for (router* x : {&r, &n}) {
            x->sequence_offsets = {0, 3, 3, 7};
            check_gradient<load>(*x, scale);
            check_gradient<per_sequence>(*x, scale);
            check_gradient<z>(*x, scale);
        }
    }
}

TEST_CASE("balance: no tokens, no loss", "[route][balance]") {
    router r{0, 3, 3, 1, {}, {}, {0}, {}, {}, {}};
    CHECK(r.value<load>() == 0.0);
    CHECK(r.value<per_sequence>() == 0.0);
    CHECK(r.value<z>() == 0.0);
    const auto v = r.view();
    z::gradient<double>(v, 1.0, matrix_view<double>(), matrix_view<double>());
    load::gradient<double>(v, 1.0, matrix_view<double>(nullptr, 0, 3), matrix_view<double>(nullptr, 0, 3));
}
