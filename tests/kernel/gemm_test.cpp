#include <mox/kernel/gemm.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include <mox/kernel/reference/gemm.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using mox_test::difference;
using mox_test::guarded_rows;
using mox_test::panel_matrices;

namespace {

using arch = simd::default_arch;
namespace plain = kernel::reference;

template <class T>
kernel::row_source<const T> from(guarded_rows<T>& rows) {
    return kernel::row_source<const T>(rows.view());
}

template <class T>
void check_shape(index_t rows, index_t in, index_t out, double bound) {
    CAPTURE(rows, in, out);
    panel_matrices<T> w(1, in, out, 1);
    guarded_rows<T> x(rows, in, 2), dy(rows, out, 3);
    const index_t begin = rows / 4, end = rows - rows / 5;
    bool fits = true;
    const auto close = [&](double a, double b) { fits = fits && difference(a, b) <= bound; };
    for (const bool accumulate : {false, true}) {
        guarded_rows<T> y(rows, out, 4), dx(rows, in, 5);
        const guarded_rows<T> y0 = y, dx0 = dx;
        kernel::product<T, arch>(from(x), begin, end, w.view(), 0, w.view().panels(),
                                 {y.view(), out, nullptr, accumulate});
        kernel::product_transposed<T, arch>(from(dy), out, begin, end, w.view(), in / 3, in,
                                            {dx.view(), in, nullptr, accumulate}, end - begin);
        // Rows and columns that were not asked for stay as they are.
        const auto rows_of = [&](matrix_view<double> m) { return m.middle_rows(begin, end - begin); };
        guarded_rows<double> x2(x), dy2(dy), y2(y0), dx2(dx0);
        plain::product<double>(rows_of(x2.view()), nullptr, w.plain_view(), nullptr, rows_of(y2.view()),
                               accumulate);
        plain::product_transposed<double>(rows_of(dy2.view()), nullptr,
                                          w.plain_view().middle_rows(in / 3, in - in / 3),
                                          rows_of(dx2.view()).middle_cols(in / 3, in - in / 3), accumulate);
        CHECK(difference(y, y2) <= bound);
        CHECK(difference(dx, dx2) <= bound);
        CHECK(y.guards_hold());
        CHECK(dx.guards_hold());
        panel_matrices<T> dw(1, in, out, 6);
        const auto view = dw.view();
        for (index_t p = 0; p < view.panels(); ++p) {
            kernel::weight_gradient<T, arch>(from(x), from(dy), out, begin, end, view, p, 0, in / 2,
                                             accumulate);
        }
        std::vector<double> expected = dw.plain;
        plain::weight_gradient<double>(rows_of(x2.view()), nullptr, rows_of(dy2.view()),
                                       {expected.data(), in / 2, out}, accumulate);
        for (index_t k = 0; k < in; ++k) {
            for (index_t n = 0; n < out; ++n)
                close(static_cast<double>(view(k, n)), expected[static_cast<std::size_t>(k * out + n)]);
            for (index_t n = out; n < dw.padded; ++n) fits = fits && view(k, n) == T(0);
        }
        CHECK(fits);
    }
    // Tiles as the epilogues see them, each value once.
    std::vector<int> seen(static_cast<std::size_t>(rows * w.padded), 0);
    std::vector<int> expected_rows(static_cast<std::size_t>(rows), 0);
    constexpr index_t W = kernel::panel_width<T>;
    kernel::product_tiles<T, arch>(
        from(x), begin, end, kernel::panel_view<const T>(w.view()), 0, w.view().panels(),
        [&](index_t row, index_t count, index_t, index_t) {
            for (index_t r = 0; r < count; ++r) ++expected_rows[static_cast<std::size_t>(row + r)];
        },
        [&](index_t row, index_t count, index_t panel, const T* tile, index_t width) {
            for (index_t r = 0; r < count; ++r) {
                for (index_t j = 0; j < width; ++j) {
                    const index_t n = panel * W + j;
                    ++seen[static_cast<std::size_t>((row + r) * w.padded + n)];
                    double sum = 0;
                    for (index_t k = 0; n < out && k < in; ++k) sum += x(row + r, k) * w.at(0, k, n);
                    close(static_cast<double>(tile[r * W + j]), sum);
                }
            }
        });
    CHECK(fits);
    // Only products long enough to hide the fetching announce their tiles, each row once a panel.
    const int announced = in >= kernel::detail::steps_worth_asking ? static_cast<int>(w.view().panels()) : 0;
    for (index_t i = 0; i < rows; ++i) {
        const int expected = begin <= i && i < end ? 1 : 0;
        fits = fits && expected_rows[static_cast<std::size_t>(i)] == expected * announced;
        for (index_t n = 0; n < w.padded; ++n)
            fits = fits && seen[static_cast<std::size_t>(i * w.padded + n)] == expected;
    }
    CHECK(fits);
}

}  // namespace

TEST_CASE("gemm: products of a unit of work against their plain twins", "[kernel][gemm]") {
    for (const index_t rows :
         {index_t{0}, index_t{1}, index_t{5}, index_t{6}, index_t{7}, index_t{13}, index_t{300}}) {
        for (const index_t in : {index_t{1}, index_t{4}, index_t{31}}) {
            for (const index_t out : {index_t{1}, index_t{8}, index_t{17}, index_t{64}, index_t{100}}) {
                check_shape<double>(rows, in, out, 1e-12);
                check_shape<float>(rows, in, out, 3e-4);
            }
        }
    }
}

TEST_CASE("gemm: maps of several panels, whose transposed products turn the weights around",
          "[kernel][gemm]") {
    for (const index_t rows : {index_t{3}, index_t{16}, index_t{90}}) {
        check_shape<double>(rows, 131, 50, 1e-12);
        check_shape<float>(rows, 200, 300, 2e-3);
        check_shape<float>(rows, 256, 512, 2e-3);
        check_shape<double>(rows, 192, 530, 1e-12);
    }
}

TEST_CASE("gemm: short sums over several panels, whose rows stay while panels pass", "[kernel][gemm]") {
    for (const index_t rows : {index_t{1}, index_t{3}, index_t{16}, index_t{90}}) {
        check_shape<double>(rows, 8, 530, 1e-12);
        check_shape<float>(rows, 16, 300, 3e-4);
        check_shape<float>(rows, kernel::detail::short_sum, 1100, 1e-3);  // more than pass together
        check_shape<float>(rows, kernel::detail::short_sum + 1, 512, 1e-3);
    }
    // The same bits panel by panel, with a factor a row.
    panel_matrices<float> w(1, 8, 700, 1);
    guarded_rows<float> x(40, 8, 2), scale(1, 40, 4), once(40, 700, 3), pieces = once;
    const float* const s = scale.values.data();
    const index_t panels = w.view().panels();
    kernel::product<float, arch>(from(x), 0, 40, w.view(), 0, panels, {once.view(), 700, s, true});
    for (index_t p = 0; p < panels; ++p)
        kernel::product<float, arch>(from(x), 0, 40, w.view(), p, p + 1, {pieces.view(), 700, s, true});
    CHECK(once.values == pieces.values);
    guarded_rows<double> x2(x), expected(guarded_rows<float>(40, 700, 3)), scale2(scale);
    plain::product<double>(x2.view(), nullptr, w.plain_view(), scale2.values.data(), expected.view(), true);
    CHECK(difference(once, expected) < 3e-4);
}

TEST_CASE("gemm: transposed products do not depend on how rows and columns are cut", "[kernel][gemm]") {
    panel_matrices<float> w(1, 300, 700, 1);
    guarded_rows<float> dy(40, 700, 2), once(40, 300, 3), pieces = once;
    kernel::product_transposed<float, arch>(from(dy), 700, 0, 40, w.view(), 0, 300,
                                            {once.view(), 300, nullptr, false}, 40);
    for (index_t i = 0; i < 40; i += 3) {
        for (index_t k = 0; k < 300; k += 64) {
            kernel::product_transposed<float, arch>(from(dy), 700, i, std::min<index_t>(i + 3, 40), w.view(),
                                                    k, std::min<index_t>(k + 64, 300),
                                                    {pieces.view(), 300, nullptr, false}, 40);
        }
    }
    CHECK(once.values == pieces.values);
}

TEST_CASE("gemm: a transposed product too wide for its local copy", "[kernel][gemm]") {
    check_shape<double>(3, 5, 4099, 1e-11);
    check_shape<double>(9, 5, 1001, 1e-11);
}

TEST_CASE("gemm: a result does not depend on how rows are cut", "[kernel][gemm]") {
    panel_matrices<float> w(1, 37, 50, 1);
    guarded_rows<float> x(23, 37, 2), once(23, 50, 3), pieces = once;
    kernel::product<float, arch>(from(x), 0, 23, w.view(), 0, w.view().panels(),
                                 {once.view(), 50, nullptr, false});
    for (index_t i = 0; i < 23; ++i) {
        for (index_t p = 0; p < w.view().panels(); ++p) {
            kernel::product<float, arch>(from(x), i, i + 1, w.view(), p, p + 1,
                                         {pieces.view(), 50, nullptr, false});
        }
    }
    CHECK(once.values == pieces.values);
}
