#include <mox/kernel/attention_received.hpp>

#include <limits>

#include <mox/core/random.hpp>
#include <mox/exec/thread_pool.hpp>

#include "../support/attention.hpp"

using namespace mox;
using namespace mox_test;

TEST_CASE("attention received: in the same pass while rows fit, else in a second", "[kernel][attention]") {
    using kernel::detail::columns_fit;
    constexpr index_t fits = 43000, too_long = 45000;
    CHECK(columns_fit(fits));
    CHECK(!columns_fit(too_long));
    thread_pool pool(3);
    for (const index_t n : {fits, too_long}) {
        for (const bool causal : {true, false}) {
            problem<double> p({2, 1, 2, causal, 0.7}, {{20, n}, {3, 3}, {70, 70}});
            const results expected = full_map(p);
            const solution<double> serial(p, {}, true, false), threads(p, pool, true, false);
            CHECK(difference(serial.out, expected.out) < 1e-12);
            CHECK(difference(serial.received, expected.received) < 1e-12);
            CHECK(serial.all() == threads.all());
        }
        // Nobody wants the log-sum-exp, but the second pass does.
        problem<float> p({1, 1, 3, true, 0.7}, {{7, n}});
        const results expected = full_map(p);
        guarded_rows<float> out(7, 3, 5);
        std::vector<float> received(static_cast<std::size_t>(n));
        arena scratch;
        kernel::attention_forward<float>({}, scratch, p.shape, p.rows(), p.q.view(), p.k.view(), p.v.view(),
                                         out.view(), nullptr, received.data());
        CHECK(difference(received, expected.received) < 1e-5);
    }
}

TEST_CASE("attention received: no map of tokens x tokens", "[kernel][attention]") {
    constexpr index_t n = 6000;
    problem<float> p({1, 1, 2, true, 0.7}, {{n, n}});
    const solution<float> found(p, {}, true, false);
    // The map would be 144 MB.
    CHECK(found.memory < 5'000'000);
    double sum = 0;
    for (const float r : found.received) sum += static_cast<double>(r);
    CHECK(sum == Approx(n).epsilon(1e-5));
    // Linear in the keys, in the second pass too.
    std::size_t memory[2];
    for (int i = 0; i < 2; ++i) {
        problem<float> q({1, 1, 2, true, 0.7}, {{8, index_t{50000} << i}});
        memory[i] = solution<float>(q, {}, true, false).memory;
    }
    CHECK(memory[1] < 2 * memory[0] + 65536);
    // Short sequences do not pay for a long one in their batch.
    std::vector<lengths> cuts(200, {5, 5});
    cuts.push_back({8, 40000});
    problem<float> mixed({2, 1, 2, true, 0.7}, cuts);
    const solution<float> both(mixed, {}, true, false);
    CHECK(both.memory < 16'000'000);
    CHECK(difference(both.received, full_map(mixed).received) < 1e-5);
}

TEST_CASE("attention received: a row with NaN reaches only what it sees", "[kernel][attention]") {
    for (const index_t n : {40, 300}) {
        problem<float> p({2, 1, 8, true, 0.3}, {{n, n}});
        const solution<float> clean(p, {}, true, false);
        for (const index_t i : {index_t{2}, index_t{30}, n - 5}) {
            problem<float> q = p;
            q.q.view()(i, 1) = std::numeric_limits<float>::quiet_NaN();
            const solution<float> found(q, {}, true, false);
            bool same = true, poisoned = true;
            for (index_t j = 0; j < n; ++j) {
                const auto at = static_cast<std::size_t>(j);
                if (j <= i)
                    poisoned &= std::isnan(found.received[at]);
                else
                    same &= found.received[at] == clean.received[at];
            }
            CHECK(same);
            CHECK(poisoned);
        }
    }
}

TEST_CASE("attention received: its gradient", "[kernel][attention]") {
    thread_pool pool(3);
    for (const bool causal : {true, false}) {
        for (const auto& cuts : {std::vector<lengths>{{1, 1}, {0, 0}, {37, 37}},
                                 std::vector<lengths>{{300, 300}}, std::vector<lengths>{{60, 520}, {5, 9}}}) {
            problem<double> p({4, 2, 5, causal, 0.4}, cuts);
            std::vector<double> gradient(static_cast<std::size_t>(p.k.rows));
            const random_stream numbers(9, 1);
            for (std::size_t j = 0; j < gradient.size(); ++j) gradient[j] = numbers.normal(j);
            const results expected = full_map(p, gradient);
            const solution<double> serial(p, {}, true, true, gradient),
                threads(p, pool, true, true, gradient);
            CHECK(difference(serial.dq, expected.dq) < 1e-11);
            CHECK(difference(serial.dk, expected.dk) < 1e-11);
            CHECK(difference(serial.dv, expected.dv) < 1e-11);
            CHECK(serial.all() == threads.all());
        }
    }
}
