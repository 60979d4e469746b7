#include <mox/kernel/attention_forward.hpp>

#include <limits>

#include <mox/exec/thread_pool.hpp>

#include "../support/attention.hpp"

using namespace mox;
using namespace mox_test;

namespace {

// Row i of a solution, all heads.
template <class T>
std::vector<T> row(const guarded_rows<T>& x, index_t i) {
    const auto begin = x.values.begin() + i * x.stride;
    return {begin, begin + x.cols};
}

template <class T>
bool all_nan(const std::vector<T>& x) {
    return std::all_of(x.begin(), x.end(), [](T v) { return std::isnan(v); });
}

}  // namespace

TEST_CASE("attention forward: memory is linear in the length", "[kernel][attention]") {
    std::size_t memory[3];
    for (int i = 0; i < 3; ++i) {
        const index_t n = index_t{8192} << i;
        problem<float> p({2, 1, 2, true, 0.5}, {{64, n}});
        memory[i] = solution<float>(p, {}, false, false).memory;
    }
    CHECK(memory[2] - memory[1] <= 2 * (memory[1] - memory[0]) + 65536);
    // The map would be 144 MB.
    problem<float> p({1, 1, 2, true, 0.7}, {{6000, 6000}});
    CHECK(solution<float>(p, {}, false, false).memory < 3'000'000);
}

TEST_CASE("attention forward: what a row must not see does not reach it", "[kernel][attention]") {
    constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();
    const kernel::attention_shape shape{2, 2, 20, true, 0.2};
    for (const index_t n : {9, 70, 300}) {
        problem<float> clean(shape, {{n, n}});
        const solution<float> expected(clean, {}, false, false);
        for (const index_t j :
             {index_t{1}, index_t{5}, index_t{47}, index_t{64}, index_t{255}, index_t{257}, n - 1}) {
            if (j >= n) continue;
            CAPTURE(n, j);
            problem<float> p = clean;
            std::fill_n(p.v.view().row(j), p.v.cols, nan_value);
            const solution<float> values(p, {}, false, false);
            std::fill_n(p.k.view().row(j), p.k.cols, nan_value);
            const solution<float> keys(p, {}, false, false);
            bool same = true, poisoned = true;
            for (index_t i = 0; i < j; ++i) {
                same &= row(values.out, i) == row(expected.out, i);
                same &= row(keys.out, i) == row(expected.out, i);
            }
            for (index_t i = j; i < n; ++i)
                poisoned &= all_nan(row(values.out, i)) && all_nan(row(keys.out, i));
            CHECK(same);
            CHECK(poisoned);
        }
        // Neither does another sequence of the batch, which shares panels and tiles.
        problem<float> p(shape, {{n, n}, {n, n}});
        std::fill_n(p.k.view().row(n), n * p.k.stride, nan_value);
        std::fill_n(p.v.view().row(n), n * p.v.stride, nan_value);
        const solution<float> both(p, {}, false, false);
        bool same = true;
        for (index_t i = 0; i < n; ++i) same &= row(both.out, i) == row(expected.out, i);
        CHECK(same);
    }
}

TEST_CASE("attention forward: a row's bits do not depend on its company", "[kernel][attention]") {
    // The last rows of a sequence alone, as in a chunk behind a cache, and among all.
    constexpr index_t n = 400, tail = 50;
    const kernel::attention_shape shape{2, 1, 16, true, 0.25};
    problem<float> whole(shape, {{n, n}}), part(shape, {{tail, n}});
    part.k = whole.k;
    part.v = whole.v;
    for (index_t i = 0; i < tail; ++i)
        std::copy_n(whole.q.view().row(n - tail + i), whole.q.cols, part.q.view().row(i));
    const solution<float> a(whole, {}, false, false), b(part, {}, false, false);
    for (index_t i = 0; i < tail; ++i) CHECK(row(b.out, i) == row(a.out, n - tail + i));
    CHECK(std::equal(b.lse.begin(), b.lse.end(), a.lse.end() - tail * 2));
}

TEST_CASE("attention forward: scores of -infinity weigh nothing", "[kernel][attention]") {
    constexpr index_t n = 530;
    constexpr double infinity = std::numeric_limits<double>::infinity();
    problem<double> p({1, 1, 1, false, 1.0}, {{12, n}});
    for (index_t i = 0; i < 12; ++i) p.q.view()(i, 0) = 1.0;
    // Whole blocks of them first, then a few, then nothing else.
    for (index_t j = 0; j < 300; ++j) p.k.view()(j, 0) = -infinity;
    for (index_t j = 300; j < n; j += 7) p.k.view()(j, 0) = -infinity;
    const results expected = full_map(p);
    const solution<double> found(p, {}, true, false);
    CHECK(difference(found.out, expected.out) < 1e-12);
    CHECK(difference(found.received, expected.received) < 1e-12);
    for (index_t j = 0; j < n; ++j) p.k.view()(j, 0) = -infinity;
    const solution<double> nothing(p, {}, true, false);
    for (index_t i = 0; i < 12; ++i) CHECK(std::isnan(nothing.out(i, 0)));
}

TEST_CASE("attention forward: float against double", "[kernel][attention]") {
    for (const auto& [n, d] : {std::pair<index_t, index_t>{1000, 64}, {130, 128}}) {
        problem<float> p({1, 1, d, true, 1 / std::sqrt(static_cast<double>(d))}, {{n, n}});
        const results expected = full_map(p);
        const solution<float> found(p, {}, true, false);
        CHECK(difference(found.out, expected.out) < 2e-6);
        CHECK(difference(found.lse, expected.lse) < 2e-6);
        CHECK(difference(found.received, expected.received) < 5e-6);
    }
}
