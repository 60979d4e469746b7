#include <mox/kernel/norm.hpp>

#include <cmath>
#include <vector>

#include <mox/exec/thread_pool.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using mox_test::guarded_rows;

namespace {

template <class T>
void check_shape(index_t rows, index_t cols, executor_ref exec, double bound) {
    CAPTURE(rows, cols);
    const double width = static_cast<double>(cols), epsilon = 0.01;
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
        std::vector<double> expected_gain(static_cast<std::size_t>(cols), 2),
            expected_shift(static_cast<std::size_t>(cols), 2);
        for (index_t t = 0; t < rows; ++t) {
            double mean = 0, square = 0, u_mean = 0, un_mean = 0;
            for (index_t j = 0; centred && j < cols; ++j) mean += x(t, j) / width;
            for (index_t j = 0; j < cols; ++j) square += (x(t, j) - mean) * (x(t, j) - mean) / width;
            const double r = 1 / std::sqrt(square + epsilon);
            for (index_t j = 0; j < cols; ++j) {
                const double n = (x(t, j) - mean) * r, u = dy(t, j) * gain(0, j);
                if (centred) u_mean += u / width;
                un_mean += u * n / width;
                CHECK(std::abs(y(t, j) - (gain(0, j) * n + (centred ? shift(0, j) : 0))) < bound);
                expected_gain[static_cast<std::size_t>(j)] += dy(t, j) * n;
                expected_shift[static_cast<std::size_t>(j)] += dy(t, j);
            }
            for (index_t j = 0; j < cols; ++j) {
                const double n = (x(t, j) - mean) * r;
                CHECK(std::abs(dx(t, j) - r * (dy(t, j) * gain(0, j) - u_mean - n * un_mean)) <
                      bound * std::max(1.0, r));
            }
        }
        for (index_t j = 0; j < cols; ++j) {
            CHECK(std::abs(static_cast<double>(dgain[static_cast<std::size_t>(j)]) -
                           expected_gain[static_cast<std::size_t>(j)]) < 20 * bound);
            if (centred)
                CHECK(std::abs(static_cast<double>(dshift[static_cast<std::size_t>(j)]) -
                               expected_shift[static_cast<std::size_t>(j)]) < 20 * bound);
        }
        CHECK(dgain.back() == T(2));
        CHECK(dshift.back() == T(2));
        CHECK(y.guards_hold());
        CHECK(dx.guards_hold());
    }
    CHECK(rho.back() == T(7));
    CHECK(statistics.back() == T(7));
}

}  // namespace

TEST_CASE("norm kernels against plain loops", "[kernel][norm]") {
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

TEST_CASE("norm: a sum and its norm in one pass have the bits of two", "[kernel][norm]") {
    serial_executor serial;
    thread_pool two(2);
    for (const index_t cols : {index_t{1}, index_t{7}, index_t{16}, index_t{100}}) {
        for (const executor_ref exec : {executor_ref(serial), executor_ref(two)}) {
            CAPTURE(cols);
            constexpr index_t rows = 150;
            guarded_rows<float> x(rows, cols, 1), sum(rows, cols, 2), gain(1, cols, 3), once(rows, cols, 4),
                twice(rows, cols, 4), total = sum;
            std::vector<float> rho(rows), expected(rows);
            kernel::add_rms_norm<float>(exec, x.view(), sum.view(), gain.values.data(), 1e-6f, once.view(),
                                        rho.data());
            kernel::add_rows<float>(exec, x.view(), total.view());
            kernel::rms_norm<float>(exec, total.view(), gain.values.data(), 1e-6f, twice.view(),
                                    expected.data());
            CHECK(sum.values == total.values);
            CHECK(once.values == twice.values);
            CHECK(rho == expected);
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
