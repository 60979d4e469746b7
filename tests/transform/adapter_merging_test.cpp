#include <mox/transform/adapter_merging.hpp>

#include <vector>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using Catch::Matchers::Contains;
using mox_test::distance;
using mox_test::normal_numbers;
using numbers = std::vector<double>;

namespace {

constexpr std::size_t in = 5, out = 4;

void add_update(numbers& to, const numbers& a, const numbers& b, double weight) {
    for (std::size_t r = 0; r < a.size() / in; ++r) {
        for (std::size_t i = 0; i < in; ++i) {
            for (std::size_t o = 0; o < out; ++o) to[i * out + o] += weight * a[r * in + i] * b[r * out + o];
        }
    }
}

}  // namespace

TEST_CASE("sum_adapters: the weighted sum of updates of different ranks, exactly",
          "[transform][adapter_merging]") {
    const auto a1 = normal_numbers<double>(2 * in, 1), b1 = normal_numbers<double>(2 * out, 2),
               a2 = normal_numbers<double>(3 * in, 3), b2 = normal_numbers<double>(3 * out, 4);
    const std::vector<adapter_factors<double>> both{{a1, b1, 0.5 * 4}, {a2, b2, 0.25 * 3}};
    const auto sum = sum_adapters<double>(both, in, out, 8.0);
    CHECK(sum.rank == 5);
    numbers expected(in * out), got(in * out);
    add_update(expected, a1, b1, 2);
    add_update(expected, a2, b2, 0.75);
    add_update(got, sum.a, sum.b, 8);
    CHECK(distance(got, expected) < 1e-14);

    // What an adapter learned that did not start at zero.
    auto a = a1, b = b1;
    for (double& v : b) v += 0.1;
    const std::vector<adapter_factors<double>> learned{{a, b, 2}, {a1, b1, -2}};
    const auto export_ = sum_adapters<double>(learned, in, out);
    CHECK(export_.rank == 4);
    numbers difference(in * out), of_export(in * out);
    add_update(difference, a, b, 2);
    add_update(difference, a1, b1, -2);
    add_update(of_export, export_.a, export_.b, 1);
    CHECK(distance(of_export, difference) < 1e-13);

    CHECK(sum_adapters<double>({}, in, out).rank == 0);
    CHECK_THROWS_WITH(sum_adapters<double>(both, 4, out), Contains("rank x in and rank x out"));
    CHECK_THROWS_WITH(sum_adapters<double>(both, in, out, 0), Contains("'scale'"));
}

TEST_CASE("mean_factor: exact where A is shared, and not elsewhere", "[transform][adapter_merging]") {
    const auto a1 = normal_numbers<double>(2 * in, 1), a2 = normal_numbers<double>(2 * in, 2),
               b1 = normal_numbers<double>(2 * out, 3), b2 = normal_numbers<double>(2 * out, 4);
    const std::vector<std::span<const double>> bs{b1, b2}, as{a1, a2};
    const auto b = mean_factor<double>(bs);
    numbers mean(in * out), merged(in * out);
    add_update(mean, a1, b1, 0.5);
    add_update(mean, a1, b2, 0.5);
    add_update(merged, a1, b, 1);
    CHECK(distance(merged, mean) < 1e-14);
    numbers other(in * out), wrong(in * out);
    add_update(other, a1, b1, 0.5);
    add_update(other, a2, b2, 0.5);
    add_update(wrong, mean_factor<double>(as), b, 1);
    CHECK(distance(wrong, other) > 0.1);
    const std::vector<std::span<const double>> uneven{b1, a1};
    CHECK_THROWS_WITH(mean_factor<double>(uneven), Contains("'factors' must have 8 elements"));
    CHECK_THROWS_WITH(mean_factor<double>({}), Contains("at least one"));
}

TEST_CASE("merge_by_sign: the heavier sign wins, and those who have it share",
          "[transform][adapter_merging]") {
    std::vector<ternary> u{ternary(6, 2), ternary(6, 3), ternary(6, 4)};
    const int signs[3][6] = {{1, 1, -1, 0, 1, 0}, {1, 1, 1, 0, -1, -1}, {-1, 1, 0, 0, 0, 0}};
    for (std::size_t k = 0; k < 3; ++k) {
        for (index_t i = 0; i < 6; ++i) u[k].set(i, signs[k][i]);
    }
    // 2 + 3 against 4; all; 3 against 2; nobody; 3 against 2; one alone.
    CHECK(distance(merge_by_sign(u), numbers{2.5, 3, 3, 0, -3, -3}) == 0);
    std::vector<ternary> even{ternary(1, 2), ternary(1, 2)};
    even[0].set(0, 1);
    even[1].set(0, -1);
    CHECK(merge_by_sign(even) == numbers{0});
    even.emplace_back(2, 1.0);
    CHECK_THROWS_WITH(merge_by_sign(even), Contains("'updates' must have 1 elements"));
    CHECK_THROWS_WITH(merge_by_sign({}), Contains("at least one"));
}
