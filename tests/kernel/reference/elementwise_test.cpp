#include <mox/kernel/reference/elementwise.hpp>

#include <vector>

#include "../../support/catch.hpp"

using namespace mox;
namespace plain = kernel::reference;

TEST_CASE("plain rows: copies and sums by hand", "[kernel][reference]") {
    using numbers = std::vector<double>;
    const numbers x{1, 2, 3, 4, 5, 6}, vector{10, 20};
    const matrix_view<const double> rows(x.data(), 3, 2);
    const std::vector<row_t> index{2, 0, 2};
    numbers to(6), sum{100, 200};
    const matrix_view<double> view(to.data(), 3, 2);
    plain::gather_rows<double>(rows, index.data(), view);
    CHECK(to == numbers{5, 6, 1, 2, 5, 6});
    plain::gather_rows<double>(rows, nullptr, view);
    CHECK(to == x);
    plain::add_rows<double>(rows, view);
    CHECK(to == numbers{2, 4, 6, 8, 10, 12});
    plain::add_vector_rows<double>(vector.data(), view);
    CHECK(to == numbers{12, 24, 16, 28, 20, 32});
    plain::sum_columns<double>(rows, sum.data(), true);
    CHECK(sum == numbers{109, 212});
    plain::sum_columns<double>(rows, sum.data(), false);
    CHECK(sum == numbers{9, 12});
    plain::sum_columns<double>({x.data(), 0, 2}, sum.data(), false);
    CHECK(sum == numbers{0, 0});
}
