#include <mox/core/view.hpp>

#include <vector>

#include "../support/catch.hpp"

using namespace mox;

namespace {
struct foreign {
    std::vector<float> values = std::vector<float>(6);
    float* data() { return values.data(); }
    const float* data() const { return values.data(); }
    int rows() const { return 2; }
    int cols() const { return 3; }
};
}  // namespace

TEST_CASE("view: elements, rows and parts", "[core][view]") {
    std::vector<int> v{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    const matrix_view<int> m(v.data(), 3, 3, 4);
    CHECK(m(2, 1) == 9);
    CHECK(m.row(1) == v.data() + 4);
    CHECK(m.row_span(1).size() == 3);
    CHECK_FALSE(m.contiguous());
    CHECK(matrix_view<int>(v.data(), 3, 4).contiguous());
    CHECK(m.middle_rows(0, 1).contiguous());
    const auto part = m.middle_rows(1, 2).middle_cols(1, 2);
    CHECK(part.rows == 2);
    CHECK(part.cols == 2);
    CHECK(part(1, 1) == 10);
    part(0, 0) = 50;
    CHECK(v[5] == 50);
    const matrix_view<const int> constant = m;
    CHECK(constant(1, 1) == 50);
    CHECK(matrix_view<int>().empty());
    CHECK(matrix_view<int>(v.data(), 0, 3).empty());
    CHECK_FALSE(m.empty());
}

TEST_CASE("view: any matrix with contiguous rows", "[core][view]") {
    foreign f;
    const matrix_view<float> m(f);
    m(1, 2) = 4;
    CHECK(f.values[5] == 4.0f);
    const foreign& g = f;
    const matrix_view<const float> c(g);
    CHECK(c.rows == 2);
    CHECK(c.stride == 3);
    CHECK(c(1, 2) == 4.0f);
    static_assert(!std::is_constructible_v<matrix_view<float>, const foreign&>);
    static_assert(!std::is_constructible_v<matrix_view<float>, matrix_view<const float>>);
}
