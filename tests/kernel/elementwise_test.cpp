#include <mox/kernel/elementwise.hpp>

#include <vector>

#include <mox/exec/thread_pool.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using mox_test::guarded_rows;

namespace {

template <class T>
void check_shape(index_t rows, index_t cols, executor_ref exec) {
    CAPTURE(rows, cols);
    guarded_rows<T> a(rows, cols, 1), b(rows, cols, 2);
    const guarded_rows<T> before = b;
    bool fits = true;
    kernel::copy_rows<T>(exec, a.view(), b.view());
    for (index_t i = 0; i < rows; ++i) {
        for (index_t j = 0; j < cols; ++j) fits = fits && b(i, j) == a(i, j);
    }
    CHECK(fits);
    CHECK(b.guards_hold());
    b = before;
    kernel::add_rows<T>(exec, a.view(), b.view());
    for (index_t i = 0; i < rows; ++i) {
        for (index_t j = 0; j < cols; ++j)
            fits = fits && b.view()(i, j) ==
                               before.values[static_cast<std::size_t>(i * b.stride + j)] + a.view()(i, j);
    }
    CHECK(fits);
    CHECK(b.guards_hold());
    std::vector<row_t> index;
    for (index_t i = 0; i < rows; ++i) index.push_back(static_cast<row_t>((i * 7 + 3) % rows));
    kernel::gather_rows<T>(exec, a.view(), index.data(), b.view());
    for (index_t i = 0; i < rows; ++i) {
        for (index_t j = 0; j < cols; ++j) fits = fits && b(i, j) == a(index[static_cast<std::size_t>(i)], j);
    }
    CHECK(fits);
    CHECK(b.guards_hold());
    std::vector<T> vector, sum(static_cast<std::size_t>(cols) + 1, T(2));
    for (index_t j = 0; j < cols; ++j) vector.push_back(static_cast<T>(j) - T(1.5));
    b = before;
    kernel::add_vector_rows<T>(exec, vector.data(), b.view());
    for (index_t i = 0; i < rows; ++i) {
        for (index_t j = 0; j < cols; ++j) {
            fits = fits && b.view()(i, j) == before.values[static_cast<std::size_t>(i * b.stride + j)] +
                                                 vector[static_cast<std::size_t>(j)];
        }
    }
    CHECK(fits);
    CHECK(b.guards_hold());
    for (const bool accumulate : {true, false}) {
        const std::vector<T> start = sum;
        kernel::sum_columns<T>(exec, a.view(), sum.data(), accumulate);
        for (index_t j = 0; j < cols; ++j) {
            // The same order of summation: exactly equal.
            T expected = accumulate ? start[static_cast<std::size_t>(j)] : T(0);
            for (index_t i = 0; i < rows; ++i) expected += a.view()(i, j);
            fits = fits && sum[static_cast<std::size_t>(j)] == expected;
        }
        CHECK(fits);
        CHECK(sum.back() == T(2));
    }
}

}  // namespace

TEST_CASE("elementwise: rows and sums against plain loops", "[kernel][elementwise]") {
    thread_pool pool(3);
    for (const executor_ref exec : {executor_ref(), executor_ref(pool)}) {
        for (const index_t rows : {index_t{0}, index_t{1}, index_t{65}, index_t{600}}) {
            for (const index_t cols : {index_t{1}, index_t{17}, index_t{300}}) {
                check_shape<double>(rows, cols, exec);
                check_shape<float>(rows, cols, exec);
            }
        }
    }
}
