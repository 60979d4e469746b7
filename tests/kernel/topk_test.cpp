#include <mox/kernel/topk.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include <mox/core/random.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

// NaN last, then larger first, then lower index first.
template <class T>
std::vector<row_t> plain_order(const std::vector<T>& values) {
    std::vector<row_t> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    const auto key = [&](row_t i) {
        const T v = values[static_cast<std::size_t>(i)];
        return std::isnan(v) ? std::pair<int, T>(1, T(0)) : std::pair<int, T>(0, -v);
    };
    std::stable_sort(order.begin(), order.end(), [&](row_t a, row_t b) { return key(a) < key(b); });
    return order;
}

template <class T>
void check_all(const std::vector<T>& values) {
    const auto order = plain_order(values);
    const auto n = static_cast<index_t>(values.size());
    for (index_t k = 1; k <= n; ++k) {
        std::vector<row_t> chosen(static_cast<std::size_t>(k), -1),
            selected(static_cast<std::size_t>(k) + 1, -5), scratch(values.size());
        kernel::top_k_row<T>(values.data(), n, k, chosen.data());
        CHECK(chosen == std::vector<row_t>(order.begin(), order.begin() + k));
        kernel::select_top<T>(values.data(), n, k, selected.data(), scratch.data());
        std::sort(chosen.begin(), chosen.end());
        CHECK(selected.back() == -5);
        selected.pop_back();
        CHECK(selected == chosen);
    }
}

}  // namespace

TEST_CASE("top k: every k of random values with ties and NaN, as a list and as a set", "[kernel][topk]") {
    const random_stream numbers(4, 4);
    for (std::uint64_t trial = 0; trial < 60; ++trial) {
        std::vector<double> values;
        const std::uint32_t size = 1 + numbers.bits(trial) % 24;
        for (std::uint64_t i = 0; i < size; ++i) {
            const std::uint32_t r = numbers.bits(1000 + trial * 50 + i) % 8;
            values.push_back(r == 7   ? std::numeric_limits<double>::quiet_NaN()
                             : r == 6 ? -std::numeric_limits<double>::infinity()
                                      : static_cast<double>(r) - 2);
        }
        check_all(values);
        check_all(std::vector<float>(values.begin(), values.end()));
    }
}

TEST_CASE("top k: nothing to select", "[kernel][topk]") {
    row_t selected = -3, scratch = 0;
    const double value = 1;
    kernel::select_top<double>(&value, 1, 0, &selected, &scratch);
    CHECK(selected == -3);
    kernel::select_top<double>(nullptr, 0, 0, &selected, &scratch);
    CHECK(selected == -3);
}
