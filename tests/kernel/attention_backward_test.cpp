#include <mox/kernel/attention_backward.hpp>

#include <limits>

#include <mox/exec/thread_pool.hpp>

#include "../support/attention.hpp"

using namespace mox;
using namespace mox_test;

namespace {

template <class T>
bool same_rows(const guarded_rows<T>& a, const guarded_rows<T>& b, index_t begin, index_t end) {
    return std::equal(a.values.begin() + begin * a.stride, a.values.begin() + end * a.stride,
                      b.values.begin() + begin * b.stride);
}

}  // namespace

TEST_CASE("attention backward: the parts of the keys", "[kernel][attention]") {
    using kernel::detail::key_parts;
    for (const index_t kv_heads : {1, 2, 3, 8, 16, 40}) {
        for (const index_t n : {0, 1, 100, 256, 511, 512, 1000, 2048, 100000}) {
            const key_parts parts(kv_heads, n);
            CHECK(parts.count >= 1);
            CHECK(parts.count <= kernel::detail::backward_parts);
            CHECK(parts.size % kernel::detail::backward_keys == 0);
            CHECK(parts.count * parts.size >= n);
            CHECK((parts.count == 1 || (parts.count - 1) * parts.size < n));
        }
    }
    CHECK(key_parts(1, 2048).count == 8);
    CHECK(key_parts(8, 2048).count == 2);
    CHECK(key_parts(16, 2048).count == 1);
    CHECK(key_parts(1, 300).count == 1);
}

TEST_CASE("attention backward: several parts of the keys, ragged, grouped", "[kernel][attention]") {
    thread_pool pool(3);
    for (const bool causal : {true, false}) {
        problem<double> p({2, 1, 5, causal, 0.4}, {{1100, 1100}, {0, 3}, {7, 7}, {40, 900}});
        const results expected = full_map(p);
        const solution<double> serial(p, {}, false), threads(p, pool, false);
        CHECK(difference(serial.dq, expected.dq) < 1e-11);
        CHECK(difference(serial.dk, expected.dk) < 1e-11);
        CHECK(difference(serial.dv, expected.dv) < 1e-11);
        CHECK(serial.guards_hold());
        CHECK(serial.all() == threads.all());
    }
}

TEST_CASE("attention backward: a sequence's bits do not depend on the batch", "[kernel][attention]") {
    const kernel::attention_shape shape{2, 2, 8, true, 0.3};
    problem<float> alone(shape, {{600, 600}}), batch(shape, {{600, 600}, {900, 900}, {3, 3}});
    for (const auto& [to, from] : {std::pair{&alone.q, &batch.q},
                                   {&alone.k, &batch.k},
                                   {&alone.v, &batch.v},
                                   {&alone.dout, &batch.dout}})
        std::copy_n(from->values.begin(), 600 * from->stride, to->values.begin());
    const solution<float> a(alone, {}, false), b(batch, {}, false);
    CHECK(same_rows(a.dq, b.dq, 0, 600));
    CHECK(same_rows(a.dk, b.dk, 0, 600));
    CHECK(same_rows(a.dv, b.dv, 0, 600));
}

TEST_CASE("attention backward: what a row must not see does not reach it", "[kernel][attention]") {
    constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();
    for (const index_t n : {9, 140, 600}) {
        problem<float> clean({2, 1, 20, true, 0.2}, {{n, n}});
        const solution<float> expected(clean, {}, false);
        for (const index_t j : {index_t{1}, index_t{5}, index_t{67}, index_t{128}, index_t{131}, n - 1}) {
            if (j >= n) continue;
            CAPTURE(n, j);
            // A key and its value: queries before it.
            problem<float> p = clean;
            std::fill_n(p.k.view().row(j), p.k.cols, nan_value);
            std::fill_n(p.v.view().row(j), p.v.cols, nan_value);
            CHECK(same_rows(solution<float>(p, {}, false).dq, expected.dq, 0, j));
            // A query's gradient: keys behind it, and all other queries.
            problem<float> g = clean;
            std::fill_n(g.dout.view().row(j), g.dout.cols, nan_value);
            const solution<float> found(g, {}, false);
            CHECK(same_rows(found.dk, expected.dk, j + 1, n));
            CHECK(same_rows(found.dv, expected.dv, j + 1, n));
            CHECK(same_rows(found.dq, expected.dq, 0, j));
            CHECK(same_rows(found.dq, expected.dq, j + 1, n));
            CHECK(std::isnan(found.dq(j, 0)));
            CHECK(std::isnan(found.dv(j, 0)));
        }
    }
}

TEST_CASE("attention backward: memory is linear in the length", "[kernel][attention]") {
    std::size_t memory[2];
    for (int i = 0; i < 2; ++i) {
        problem<float> p({1, 1, 2, true, 0.7}, {{index_t{3000} << i, index_t{3000} << i}});
        memory[i] = solution<float>(p, {}, false).memory;
    }
    // Eight shares of dq, and what a worker needs; the map would be 144 MB.
    CHECK(memory[1] < 10'000'000);
    CHECK(memory[1] < 2 * memory[0] + 65536);
}

TEST_CASE("attention backward: float against double", "[kernel][attention]") {
    problem<float> p({1, 1, 64, true, 0.125}, {{700, 700}});
    const results expected = full_map(p);
    const solution<float> found(p, {}, false);
    CHECK(difference(found.dq, expected.dq) < 5e-6);
    CHECK(difference(found.dk, expected.dk) < 5e-6);
    CHECK(difference(found.dv, expected.dv) < 5e-6);
}
