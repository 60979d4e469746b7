#include <mox/kernel/column_norms.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <mox/kernel/reference/rows.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using mox_test::guarded_rows;
using mox_test::panel_matrices;

TEMPLATE_TEST_CASE("column_norms: the plain sums, for any shape and any place in W", "[kernel][column_norms]",
                   float, double) {
    using T = TestType;
    const double bound = sizeof(T) == 4 ? 1e-5 : 1e-13;
    constexpr index_t W = kernel::panel_width<T>;
    for (const index_t in : {index_t{1}, index_t{7}, index_t{48}, index_t{131}}) {
        for (const index_t rank : {index_t{1}, index_t{3}, index_t{16}}) {
            for (const index_t cols : {index_t{1}, W - 1, W, W + 5, 3 * W}) {
                for (const index_t first : {index_t{0}, index_t{5}, W, W + 9}) {
                    CAPTURE(in, rank, cols, first);
                    panel_matrices<T> w(1, in, first + cols, 1), b(1, rank, cols, 2);
                    guarded_rows<T> a(in, rank, 3);
                    std::vector<T> norm(static_cast<std::size_t>(cols) + 1, T(-5)), cut = norm;
                    const index_t panels = b.view().panels();
                    kernel::column_norms<T>(w.view(), first, a.view(), b.view(), cols, 0, panels,
                                            norm.data());
                    // Cut anywhere the bits are the same.
                    for (index_t p = 0; p < panels; ++p)
                        kernel::column_norms<T>(w.view(), first, a.view(), b.view(), cols, p, p + 1,
                                                cut.data());
                    CHECK(cut == norm);
                    std::vector<double> rows(static_cast<std::size_t>(in * rank));
                    for (index_t i = 0; i < in * rank; ++i)
                        rows[static_cast<std::size_t>(i)] = static_cast<double>(a(i / rank, i % rank));
                    for (index_t o = 0; o < cols; ++o) {
                        std::vector<double> column, up;
                        for (index_t i = 0; i < in; ++i) column.push_back(w.at(0, i, first + o));
                        for (index_t r = 0; r < rank; ++r) up.push_back(b.at(0, r, o));
                        const double expected = kernel::reference::column_norm<double>(
                            column.data(), {rows.data(), in, rank}, up.data());
                        const double got = static_cast<double>(norm[static_cast<std::size_t>(o)]);
                        // Terms of size about 1 may cancel.
                        CHECK(std::abs(got - expected) < bound * static_cast<double>(rank) * (1 + expected));
                    }
                    CHECK(norm.back() == T(-5));
                }
            }
        }
    }
}

TEST_CASE("column_norms: a range of the ranks, no inputs, and NaN in its column", "[kernel][column_norms]") {
    panel_matrices<float> w(1, 9, 70, 1), b(1, 12, 70, 2);
    guarded_rows<float> a(9, 4, 3);
    std::vector<float> norm(70), alone(70);
    kernel::column_norms<float>(w.view(), 0, a.view(), b.view().row_range(4, 8), 70, 0, b.view().panels(),
                                norm.data());
    panel_matrices<float> middle(1, 4, 70, 4);
    for (index_t r = 0; r < 4; ++r) {
        for (index_t o = 0; o < 70; ++o) middle.view()(r, o) = b.view()(4 + r, o);
    }
    kernel::column_norms<float>(w.view(), 0, a.view(), middle.view(), 70, 0, middle.view().panels(),
                                alone.data());
    CHECK(norm == alone);
    w.view()(3, 11) = std::numeric_limits<float>::quiet_NaN();
    kernel::column_norms<float>(w.view(), 0, a.view(), middle.view(), 70, 0, middle.view().panels(),
                                norm.data());
    for (std::size_t o = 0; o < 70; ++o) CHECK((o == 11 ? std::isnan(norm[o]) : norm[o] == alone[o]));
    kernel::column_norms<float>(w.view(), 0, {nullptr, 0, 4}, middle.view(), 70, 0, middle.view().panels(),
                                norm.data());
    for (const float v : norm) CHECK(v == 0.0f);
}
