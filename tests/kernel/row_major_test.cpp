#include <mox/kernel/row_major.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <mox/kernel/reference/gemm.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using mox_test::guarded_rows;

TEMPLATE_TEST_CASE("row_major: the plain product, for any shape", "[kernel][row_major]", float, double) {
    using T = TestType;
    const double bound = sizeof(T) == 4 ? 1e-4 : 1e-12;
    constexpr index_t W = kernel::panel_width<T>;
    for (const index_t rows : {index_t{0}, index_t{1}, index_t{6}, index_t{16}, index_t{23}, index_t{40}}) {
        for (const index_t in : {index_t{1}, index_t{64}, index_t{150}}) {
            for (const index_t out : {index_t{1}, index_t{3}, W, W + 1, 2 * W, 3 * W + 7, index_t{700}}) {
                CAPTURE(rows, in, out);
                guarded_rows<T> x(rows, in, 1), w(in, out, 2);
                guarded_rows<double> x2(x), w2(w);
                std::vector<row_t> index(static_cast<std::size_t>(rows));
                std::vector<T> scale(static_cast<std::size_t>(rows));
                for (index_t i = 0; i < rows; ++i) {
                    index[static_cast<std::size_t>(i)] = static_cast<row_t>(rows - 1 - i);
                    scale[static_cast<std::size_t>(i)] = T(0.5) + static_cast<T>(i % 20);
                }
                for (const bool accumulate : {false, true}) {
                    for (const bool scaled : {false, true}) {
                        guarded_rows<T> y(rows, out, 3);
                        const guarded_rows<T> y0 = y;
                        const auto view = y.view();
                        kernel::product_row_major<T>(kernel::row_source<const T>(x.view(), index.data()), 0,
                                                     rows, w.view(),
                                                     {kernel::row_source<T>(view, index.data()), out,
                                                      scaled ? scale.data() : nullptr, accumulate});
                        // Row i of the twin's result is the row that index[i] names.
                        guarded_rows<double> expected(y0);
                        for (index_t i = 0; i < rows; ++i) {
                            const index_t t = index[static_cast<std::size_t>(i)];
                            const double s = static_cast<double>(scale[static_cast<std::size_t>(i)]);
                            kernel::reference::product<double>(x2.view().middle_rows(t, 1), nullptr,
                                                               w2.view(), scaled ? &s : nullptr,
                                                               expected.view().middle_rows(t, 1), accumulate);
                        }
                        CHECK(mox_test::difference(y, expected) < bound);
                        CHECK(y.guards_hold());
                    }
                }
            }
        }
    }
}

TEST_CASE("row_major: the same bits however threads share the rows", "[kernel][row_major]") {
    constexpr index_t rows = 40, in = 150, out = 90;
    guarded_rows<float> x(rows, in, 1), w(in, out, 2), whole(rows, out, 3), parts(rows, out, 4);
    const auto product = [&](guarded_rows<float>& y, index_t begin, index_t end) {
        kernel::product_row_major<float>(kernel::row_source<const float>(x.view()), begin, end, w.view(),
                                         {y.view(), out, nullptr, false}, rows);
    };
    product(whole, 0, rows);
    for (const index_t begin : {0, 5, 36}) product(parts, begin, begin == 0 ? 5 : begin == 5 ? 36 : rows);
    CHECK(whole.values == parts.values);
}

TEST_CASE("row_major: NaN stays in its row", "[kernel][row_major]") {
    guarded_rows<float> x(7, 90, 1), w(90, 70, 2), y(7, 70, 3);
    x.view()(4, 30) = std::numeric_limits<float>::quiet_NaN();
    kernel::product_row_major<float>(kernel::row_source<const float>(x.view()), 0, 7, w.view(),
                                     {y.view(), 70, nullptr, false});
    for (index_t i = 0; i < 7; ++i) {
        for (index_t c = 0; c < 70; ++c) CHECK(std::isnan(y(i, c)) == (i == 4));
    }
}
