#include <mox/kernel/norm.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <mox/exec/thread_pool.hpp>
#include <mox/kernel/norm_backward.hpp>
#include <mox/kernel/reference/rows.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using mox_test::difference;
using mox_test::guarded_rows;

namespace {

template <class T>
void check_shape(index_t rows, index_t cols, executor_ref exec, double bound) {
    CAPTURE(rows, cols);
    const double epsilon = 0.01;
    guarded_rows<T> x(rows, cols, 1), gain(1, cols, 2), shift(1, cols, 3), dy(rows, cols, 4),
        y(rows, cols, 5), dx(rows, cols, 6);
    std::vector<T> rho(static_cast<std::size_t>(rows) + 1, T(7)),
        statistics(static_cast<std::size_t>(2 * rows) + 1, T(7));
    const T e = static_cast<T>(epsilon);
    for (const bool centred : {false, true}) {
        std::vector<T> dgain(static_cast<std::size_t>(cols) + 1, T(2)), dshift = dgain;
        if (centred) {
            kernel::layer_norm<T>(exec, x.view(), gain.values.data(), shift.values.data(), e, y.view(),
                                  statistics.data());
            kernel::layer_norm_backward<T>(exec, x.view(), gain.values.data(), statistics.data(), dy.view(),
                                           dx.view(), dgain.data(), dshift.data(), true);
        } else {
            kernel::rms_norm<T>(exec, x.view(), gain.values.data(), e, y.view(), rho.data());
            kernel::rms_norm_backward<T>(exec, x.view(), gain.values.data(), rho.data(), dy.view(), dx.view(),
                                         dgain.data(), true);
        }
        namespace plain = kernel::reference;
        guarded_rows<double> x2(x), gain2(gain), shift2(shift), dy2(dy), y2(y), dx2(dx);
        std::vector<double> dgain2(static_cast<std::size_t>(cols) + 1, 2), dshift2 = dgain2;
        const double* const g = gain2.values.data();
        for (index_t t = 0; t < rows; ++t) {
            const double *const xt = x2.view().row(t), *const dyt = dy2.view().row(t);
            double *const yt = y2.view().row(t), *const dxt = dx2.view().row(t);
            if (centred) {
                plain::layer_norm_row<double>(xt, g, shift2.values.data(), cols, epsilon, yt);
                plain::layer_norm_backward_row<double>(xt, g, dyt, cols, epsilon, dxt, dgain2.data(),
                                                       dshift2.data());
            } else {
                plain::rms_norm_row<double>(xt, g, cols, epsilon, yt);
                plain::rms_norm_backward_row<double>(xt, g, dyt, cols, epsilon, dxt, dgain2.data());
            }
        }
        CHECK(difference(y, y2) < bound);
        // The gradient is a multiple of rho, which is 1 / sqrt(epsilon) at most.
        CHECK(difference(dx, dx2) < 10 * bound);
        CHECK(difference(dgain, dgain2) < 20 * bound);
        CHECK(difference(dshift, dshift2) < 20 * bound);
        CHECK(y.guards_hold());
        CHECK(dx.guards_hold());
    }
    CHECK(rho.back() == T(7));
    CHECK(statistics.back() == T(7));
}

}  // namespace

TEST_CASE("norm kernels against their plain twins", "[kernel][norm]") {
    thread_pool pool(3);
    for (const executor_ref exec : {executor_ref(), executor_ref(pool)}) {
        for (const index_t rows : {index_t{0}, index_t{1}, index_t{150}}) {
            for (const index_t cols : {index_t{1}, index_t{5}, index_t{16}, index_t{77}}) {
                check_shape<double>(rows, cols, exec, 1e-12);
                check_shape<float>(rows, cols, exec, 2e-5);
            }
        }
    }
}

TEST_CASE("norm: layer_norm keeps its digits whatever the mean and the first value", "[kernel][norm]") {
    for (const index_t cols : {3, 16, 61, 256}) {
        for (const double mean : {0.0, 1.0, 100.0, 30000.0}) {
            for (const double first : {0.0, 1.0, 3.0, 5.0, 40.0, 1e4}) {
                CAPTURE(cols, mean, first);
                guarded_rows<float> x(1, cols, 1), gain(1, cols, 2), shift(1, cols, 3), y(1, cols, 4);
                for (float& v : x.values) v = static_cast<float>(v + mean);
                x.view().row(0)[0] += static_cast<float>(first);
                float saved[2];
                kernel::layer_norm<float>({}, x.view(), gain.values.data(), shift.values.data(), 1e-5f,
                                          y.view(), saved);
                double exact = 0, variance = 0;
                for (index_t j = 0; j < cols; ++j) exact += x(0, j) / static_cast<double>(cols);
                for (index_t j = 0; j < cols; ++j)
                    variance += (x(0, j) - exact) * (x(0, j) - exact) / static_cast<double>(cols);
                const double rho = 1 / std::sqrt(variance + 1e-5);
                // The mean is rounded to a float, the sums to digits of the spread.
                CHECK(std::abs(static_cast<double>(saved[0]) - exact) <=
                      3e-7 * (std::abs(exact) + 4 * std::sqrt(variance)));
                CHECK(std::abs(static_cast<double>(saved[1]) / rho - 1) < 4e-6);
            }
        }
    }
    // A row of one value has no variance, exactly; NaN and infinity stay visible.
    for (const float value : {0.0f, 0.1f, -12345.678f}) {
        std::vector<float> x(50, value), gain(50, 1.0f), shift(50, 0.0f), y(50);
        float saved[2];
        const auto norm = [&] {
            kernel::layer_norm<float>({}, {x.data(), 1, 50}, gain.data(), shift.data(), 1.0f,
                                      matrix_view<float>(y.data(), 1, 50), saved);
        };
        norm();
        CHECK(saved[0] == value);
        CHECK(saved[1] == 1.0f);
        for (const std::size_t at : {std::size_t{0}, std::size_t{20}, std::size_t{49}}) {
            for (const float bad :
                 {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
                x[at] = bad;
                norm();
                CHECK(std::isnan(y[at]));
                x[at] = value;
            }
        }
    }
}

TEST_CASE("norm: a sum and its norm in one pass have the bits of two", "[kernel][norm]") {
    serial_executor serial;
    thread_pool two(2);
    for (const index_t cols : {index_t{1}, index_t{7}, index_t{16}, index_t{100}}) {
        for (const executor_ref exec : {executor_ref(serial), executor_ref(two)}) {
            CAPTURE(cols);
            constexpr index_t rows = 150;
            guarded_rows<float> x(rows, cols, 1), start(rows, cols, 2), gain(1, cols, 3), shift(1, cols, 5),
                once(rows, cols, 4), twice(rows, cols, 4);
            for (const bool centred : {false, true}) {
                guarded_rows<float> sum = start, total = start;
                std::vector<float> saved(2 * rows), expected(2 * rows);
                kernel::add_rows<float>(exec, x.view(), total.view());
                if (centred) {
                    kernel::add_layer_norm<float>(exec, x.view(), sum.view(), gain.values.data(),
                                                  shift.values.data(), 1e-5f, once.view(), saved.data());
                    kernel::layer_norm<float>(exec, total.view(), gain.values.data(), shift.values.data(),
                                              1e-5f, twice.view(), expected.data());
                } else {
                    kernel::add_rms_norm<float>(exec, x.view(), sum.view(), gain.values.data(), 1e-6f,
                                                once.view(), saved.data());
                    kernel::rms_norm<float>(exec, total.view(), gain.values.data(), 1e-6f, twice.view(),
                                            expected.data());
                }
                CHECK(sum.values == total.values);
                CHECK(once.values == twice.values);
                CHECK(saved == expected);
            }
        }
    }
}

namespace {

// The row functions with both kinds of stores: the same bits, and nothing written outside.
template <class T>
void check_streaming(index_t rows, index_t cols) {
    CAPTURE(rows, cols);
    using arch = simd::default_arch;
    namespace d = kernel::detail;
    const index_t stride = round_up(cols, 16);
    buffer<T> ordinary(rows * stride + 16), past(rows * stride + 16), saved(2 * rows + 1),
        again(2 * rows + 1);
    guarded_rows<T> x(rows, cols, 1), gain(1, cols, 2), shift(1, cols, 3);
    const matrix_view<T> a(ordinary.data(), rows, cols, stride), b(past.data(), rows, cols, stride);
    const auto same = [&] {
        simd::stream_fence();
        CHECK(std::equal(ordinary.data(), ordinary.data() + ordinary.size(), past.data()));
        CHECK(std::equal(saved.data(), saved.data() + saved.size(), again.data()));
    };
    const d::given_rows<T, arch> given{x.view()};
    const T e = T(0.01);
    d::rms_norm_rows<T, arch, false>(given, 0, rows, gain.values.data(), e, a, saved.data());
    d::rms_norm_rows<T, arch, true>(given, 0, rows, gain.values.data(), e, b, again.data());
    same();
    d::layer_norm_rows<T, arch, false>(given, 0, rows, gain.values.data(), shift.values.data(), e, a,
                                       saved.data());
    d::layer_norm_rows<T, arch, true>(given, 0, rows, gain.values.data(), shift.values.data(), e, b,
                                      again.data());
    same();
}

}  // namespace

TEST_CASE("norm: stores past the caches write the same bits", "[kernel][norm]") {
    for (const index_t rows : {index_t{0}, index_t{1}, index_t{5}}) {
        for (const index_t cols : {index_t{1}, index_t{16}, index_t{77}, index_t{160}}) {
            check_streaming<float>(rows, cols);
            check_streaming<double>(rows, cols);
        }
    }
    // Large enough to be chosen: as the rows one by one, which are not.
    const index_t cols = 1024, rows = simd::last_level_cache() / 2 / (4 * cols) + 3;
    if (rows > 100000) return;  // a cache too large for a test
    buffer<float> x(rows * cols), y(rows * cols), row(cols), gain(cols), rho(rows);
    for (index_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 1013) - 500.0f;
    for (index_t j = 0; j < cols; ++j) gain[j] = static_cast<float>(j);
    CHECK(kernel::streams(matrix_view<float>(y.data(), rows, cols)) == simd::has_streaming<float>);
    CHECK_FALSE(kernel::streams(matrix_view<float>(y.data() + 1, rows - 1, cols)));
    CHECK_FALSE(kernel::streams(matrix_view<float>(y.data(), 3, cols)));
    thread_pool pool(2);
    kernel::rms_norm<float>(pool, matrix_view<const float>(x.data(), rows, cols), gain.data(), 1e-6f,
                            matrix_view<float>(y.data(), rows, cols), rho.data());
    bool equal = true;
    for (index_t t = 0; t < rows; ++t) {
        float r;
        kernel::rms_norm<float>({}, matrix_view<const float>(x.data() + t * cols, 1, cols), gain.data(),
                                1e-6f, matrix_view<float>(row.data(), 1, cols), &r);
        equal = equal && r == rho[t] && std::equal(row.data(), row.data() + cols, y.data() + t * cols);
    }
    CHECK(equal);
}

TEST_CASE("norm: NaN and infinities pass through", "[kernel][norm]") {
    const float absent = std::numeric_limits<float>::quiet_NaN(),
                huge = std::numeric_limits<float>::infinity();
    for (const float bad : {absent, huge, -huge}) {
        for (const index_t at : {index_t{0}, index_t{20}, index_t{32}}) {
            std::vector<float> x(66, 1.0f), y(66), gain(33, 1.0f), saved(4);
            x[static_cast<std::size_t>(at)] = bad;
            const matrix_view<const float> in(x.data(), 2, 33);
            kernel::rms_norm<float>({}, in, gain.data(), 1e-6f, {y.data(), 2, 33}, saved.data());
            CHECK(std::isnan(y[static_cast<std::size_t>(at)]));
            CHECK(y[40] == Approx(1.0f));
            kernel::layer_norm<float>({}, in, gain.data(), gain.data(), 1e-6f, {y.data(), 2, 33},
                                      saved.data());
            for (int j = 0; j < 33; ++j) CHECK(std::isnan(y[static_cast<std::size_t>(j)]));
            CHECK(y[40] == Approx(1.0f));
        }
    }
}

TEST_CASE("norm: rows may be written where they are read", "[kernel][norm]") {
    const executor_ref exec;
    for (const index_t cols : {index_t{5}, index_t{40}}) {
        guarded_rows<double> x(3, cols, 1), y(3, cols, 2), gain(1, cols, 3), shift(1, cols, 4);
        std::vector<double> statistics(6);
        kernel::layer_norm<double>(exec, x.view(), gain.values.data(), shift.values.data(), 1e-5, y.view(),
                                   statistics.data());
        kernel::layer_norm<double>(exec, x.view(), gain.values.data(), shift.values.data(), 1e-5, x.view(),
                                   statistics.data());
        for (index_t t = 0; t < 3; ++t) {
            for (index_t j = 0; j < cols; ++j) CHECK(x(t, j) == y(t, j));
        }
    }
}
