#include <mox/route/top_k.hpp>

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include <mox/core/random.hpp>
#include <mox/exec/thread_pool.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

constexpr double absent = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

template <index_t K>
std::vector<row_t> chosen_by(const std::vector<double>& logits, index_t rows = 1) {
    const index_t cols = static_cast<index_t>(logits.size()) / rows;
    std::vector<row_t> chosen(static_cast<std::size_t>(rows * K), -7);
    route::top_k<K>::template select<double>(
        executor_ref(), matrix_view<const double>(logits.data(), rows, cols), chosen.data());
    return chosen;
}

using rows_of = std::vector<row_t>;

}  // namespace

TEST_CASE("top_k: best first, ties to the lowest index", "[route][top_k]") {
    CHECK(chosen_by<1>({1, 5, 3}) == rows_of{1});
    CHECK(chosen_by<2>({1, 5, 3}) == rows_of{1, 2});
    CHECK(chosen_by<3>({1, 5, 3}) == rows_of{1, 2, 0});
    CHECK(chosen_by<2>({4, 4, 4, 4}) == rows_of{0, 1});
    CHECK(chosen_by<2>({0, 4, 1, 4, 4}) == rows_of{1, 3});
    CHECK(chosen_by<3>({2, 9, 2, 2}) == rows_of{1, 0, 2});
    CHECK(chosen_by<2>({-0.0, 0.0, -0.0}) == rows_of{0, 1});
    CHECK(chosen_by<1>({-infinity, -infinity}) == rows_of{0});
    CHECK(chosen_by<2>({-infinity, infinity, -1}) == rows_of{1, 2});
}

TEST_CASE("top_k: NaN loses, and the choices stay distinct", "[route][top_k]") {
    CHECK(chosen_by<2>({absent, absent, absent}) == rows_of{0, 1});
    CHECK(chosen_by<2>({absent, 1, absent, 2}) == rows_of{3, 1});
    CHECK(chosen_by<3>({absent, 1, absent, 2}) == rows_of{3, 1, 0});
    CHECK(chosen_by<1>({absent, -infinity}) == rows_of{1});
    CHECK(chosen_by<2>({1, absent, 0}) == rows_of{0, 2});
    CHECK(chosen_by<3>({absent, absent, -infinity}) == rows_of{2, 0, 1});
}

TEST_CASE("top_k: against a stable sort, rows apart, with threads", "[route][top_k]") {
    constexpr index_t rows = 1000, cols = 13, k = 5;
    std::vector<double> logits;
    const random_stream numbers(3, 1);
    // Few different values, so that ties are common.
    for (std::uint64_t i = 0; i < rows * cols; ++i)
        logits.push_back(static_cast<double>(numbers.bits(i) % 6));
    rows_of expected;
    for (index_t t = 0; t < rows; ++t) {
        rows_of order(cols);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](row_t a, row_t b) {
            return logits[static_cast<std::size_t>(t * cols + a)] >
                   logits[static_cast<std::size_t>(t * cols + b)];
        });
        expected.insert(expected.end(), order.begin(), order.begin() + k);
    }
    CHECK(chosen_by<k>(logits, rows) == expected);
    thread_pool pool(3);
    rows_of chosen(rows * k);
    route::top_k<k>::select<double>(pool, matrix_view<const double>(logits.data(), rows, cols),
                                    chosen.data());
    CHECK(chosen == expected);
}
