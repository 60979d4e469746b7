#include <mox/kernel/elementwise.hpp>

#include <vector>

#include <mox/exec/thread_pool.hpp>
#include <mox/kernel/reference/elementwise.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using mox_test::guarded_rows;

namespace {

// The same order of summation: exactly equal, guards too.
template <class T>
void check_shape(index_t rows, index_t cols, executor_ref exec) {
    CAPTURE(rows, cols);
    namespace plain = kernel::reference;
    guarded_rows<T> a(rows, cols, 1);
    const guarded_rows<T> before(rows, cols, 2);
    const auto same = [&](auto&& kernel, auto&& twin) {
        guarded_rows<T> b = before, expected = before;
        kernel(b.view());
        twin(expected.view());
        return b.values == expected.values;
    };
    using matrix = matrix_view<T>;
    CHECK(same([&](matrix b) { kernel::copy_rows<T>(exec, a.view(), b); },
               [&](matrix b) { plain::gather_rows<T>(a.view(), nullptr, b); }));
    CHECK(same([&](matrix b) { kernel::add_rows<T>(exec, a.view(), b); },
               [&](matrix b) { plain::add_rows<T>(a.view(), b); }));
    std::vector<row_t> index;
    for (index_t i = 0; i < rows; ++i) index.push_back(static_cast<row_t>((i * 7 + 3) % rows));
    CHECK(same([&](matrix b) { kernel::gather_rows<T>(exec, a.view(), index.data(), b); },
               [&](matrix b) { plain::gather_rows<T>(a.view(), index.data(), b); }));
    std::vector<T> vector, sum(static_cast<std::size_t>(cols) + 1, T(2)), expected = sum;
    for (index_t j = 0; j < cols; ++j) vector.push_back(static_cast<T>(j) - T(1.5));
    CHECK(same([&](matrix b) { kernel::add_vector_rows<T>(exec, vector.data(), b); },
               [&](matrix b) { plain::add_vector_rows<T>(vector.data(), b); }));
    for (const bool accumulate : {true, false}) {
        kernel::sum_columns<T>(exec, a.view(), sum.data(), accumulate);
        plain::sum_columns<T>(a.view(), expected.data(), accumulate);
        CHECK(sum == expected);
    }
}

}  // namespace

TEST_CASE("elementwise: rows and sums against their plain twins", "[kernel][elementwise]") {
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
