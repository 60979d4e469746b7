#include <mox/kernel/topk.hpp>

#include <algorithm>
#include <limits>
#include <vector>

#include <mox/core/random.hpp>
#include <mox/exec/thread_pool.hpp>
#include <mox/kernel/reference/rows.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

template <class T>
void check_all(const std::vector<T>& values) {
    const auto n = static_cast<index_t>(values.size());
    for (index_t k = 1; k <= n; ++k) {
        std::vector<row_t> chosen(static_cast<std::size_t>(k), -1), expected(chosen),
            selected(static_cast<std::size_t>(k) + 1, -5), scratch(values.size());
        kernel::top_k_row<T>(values.data(), n, k, chosen.data());
        kernel::reference::top_k_row<T>(values.data(), n, k, expected.data());
        CHECK(chosen == expected);
        kernel::select_top<T>(values.data(), n, k, selected.data(), scratch.data());
        kernel::reference::select_top<T>(values.data(), n, k, expected.data());
        CHECK(selected.back() == -5);
        selected.pop_back();
        CHECK(selected == expected);
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

namespace {

// Many rows at once are the rows one by one, whatever their number, ties and values that are not finite.
template <class T>
void check_rows(index_t rows, index_t cols, index_t k, std::uint32_t different) {
    const random_stream numbers(7, static_cast<std::uint64_t>(rows * cols));
    std::vector<T> values;
    for (index_t i = 0; i < rows * (cols + 3); ++i) {
        const std::uint32_t r = numbers.bits(static_cast<std::uint64_t>(i));
        values.push_back(r % 997 == 0   ? std::numeric_limits<T>::quiet_NaN()
                         : r % 991 == 0 ? std::numeric_limits<T>::infinity()
                         : r % 983 == 0 ? -std::numeric_limits<T>::infinity()
                         : r % 7 == 0   ? T(-0.0)
                                        : static_cast<T>(r % different) - static_cast<T>(different / 2));
    }
    const matrix_view<const T> all(values.data(), rows, cols, cols + 3);
    std::vector<row_t> chosen(static_cast<std::size_t>(rows * k + 1), -7), expected = chosen;
    for (index_t t = 0; t < rows; ++t) kernel::top_k_row<T>(all.row(t), cols, k, expected.data() + t * k);
    kernel::top_k_rows<T>({}, all, k, chosen.data());
    CHECK(chosen == expected);
    thread_pool three(3);
    std::fill(chosen.begin(), chosen.end(), row_t{-7});
    kernel::top_k_rows<T>(three, all, k, chosen.data());
    CHECK(chosen == expected);
}

}  // namespace

TEST_CASE("top k: many rows are each row alone", "[kernel][topk]") {
    for (index_t k : {1, 2, 3, 7, 8, 9}) {
        for (index_t cols : {9, 16, 40, 255, 256, 257, 700}) {
            check_rows<float>(67, cols, k, 5);
            check_rows<float>(15, cols, k, 100000);
            check_rows<double>(67, cols, k, 100000);
        }
    }
    check_rows<float>(600, 8, 8, 4);
    check_rows<float>(0, 8, 2, 4);
}

TEST_CASE("top k: nothing to select", "[kernel][topk]") {
    row_t selected = -3, scratch = 0;
    const double value = 1;
    kernel::select_top<double>(&value, 1, 0, &selected, &scratch);
    CHECK(selected == -3);
    kernel::select_top<double>(nullptr, 0, 0, &selected, &scratch);
    CHECK(selected == -3);
}
