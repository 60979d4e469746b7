#include <mox/kernel/attention_decode.hpp>

#include <limits>

#include <mox/exec/thread_pool.hpp>

#include "../support/attention.hpp"

using namespace mox;
using namespace mox_test;

namespace {

// All queries together: forward takes the decoding path for fewer than a tile of them.
template <class T>
void compare(const kernel::attention_shape& shape, const std::vector<lengths>& cuts, double bound) {
    CAPTURE(shape.heads, shape.kv_heads, shape.head_dim, shape.causal, cuts[0].queries, cuts[0].keys);
    problem<T> p(shape, cuts);
    const results expected = full_map(p);
    thread_pool pool(3);
    const solution<T> serial(p, {}, false, false), threads(p, pool, false, false);
    CHECK(difference(serial.out, expected.out) < bound);
    CHECK(difference(serial.lse, expected.lse) < bound);
    CHECK(serial.guards_hold());
    CHECK(serial.all() == threads.all());
}

}  // namespace

TEST_CASE("attention decode: caches shorter and longer than a part", "[kernel][attention]") {
    for (const bool causal : {true, false}) {
        for (const index_t n : {2, 17, 31, 33, 511, 512, 513, 1300}) {
            compare<double>({1, 1, 8, causal, 0.4}, {{1, n}}, 1e-12);
            compare<double>({6, 2, 5, causal, 0.4}, {{2, n}, {1, 3}}, 1e-12);
            compare<float>({4, 1, 64, causal, 0.125}, {{1, n}}, 1e-5);
            if (n > 5) compare<float>({2, 2, 33, causal, 0.17}, {{5, n}, {1, 900}, {2, 2}}, 1e-5);
        }
        compare<double>({2, 1, 4, causal, 0.5}, {{0, 5}, {4, 7}, {0, 0}, {3, 600}}, 1e-12);
    }
}

TEST_CASE("attention decode: keys that are not seen, -infinity, NaN", "[kernel][attention]") {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();
    constexpr index_t n = 600;
    // Causal: the last key is seen by the last query only.
    problem<double> p({2, 1, 3, true, 0.5}, {{4, n}});
    const solution<double> clean(p, {}, false, false);
    std::fill_n(p.k.view().row(n - 1), 3, nan_value);
    std::fill_n(p.v.view().row(n - 1), 3, nan_value);
    const solution<double> poisoned(p, {}, false, false);
    CHECK(std::equal(poisoned.out.values.begin(), poisoned.out.values.begin() + 3 * poisoned.out.stride,
                     clean.out.values.begin()));
    for (index_t c = 0; c < 6; ++c) CHECK(std::isnan(poisoned.out(3, c)));

    // A part of nothing but -infinity, scores far below zero in the other.
    problem<double> q({1, 1, 1, false, 1.0}, {{1, n}});
    q.q.view()(0, 0) = 1.0;
    for (index_t j = 0; j < n; ++j)
        q.k.view()(j, 0) = j < 520 ? -infinity : -2000.0 - static_cast<double>(j % 3);
    const results expected = full_map(q);
    const solution<double> found(q, {}, false, false);
    CHECK(difference(found.out, expected.out) < 1e-12);
    CHECK(difference(found.lse, expected.lse) < 1e-12);
    for (index_t j = 0; j < n; ++j) q.k.view()(j, 0) = -infinity;
    CHECK(std::isnan(solution<double>(q, {}, false, false).out(0, 0)));
}
