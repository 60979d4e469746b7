#include <mox/kernel/softmax.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <mox/core/buffer.hpp>
#include <mox/exec/thread_pool.hpp>
#include <mox/kernel/reference/rows.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using mox_test::difference;
using mox_test::guarded_rows;

namespace {

template <class T>
void check_softmax(index_t rows, index_t cols, double scale, double bound) {
    CAPTURE(rows, cols, scale);
    guarded_rows<T> x(rows, cols, 1, scale), p(rows, cols, 2), dp(rows, cols, 3), dl(rows, cols, 4);
    const guarded_rows<T> before = dl;
    std::vector<T> lse(static_cast<std::size_t>(rows));
    kernel::softmax_rows<T>(executor_ref(), x.view(), p.view(), lse.data());
    namespace plain = kernel::reference;
    guarded_rows<double> x2(x), expected(p), dp2(dp);
    for (index_t t = 0; t < rows; ++t) {
        const double log_sum = plain::softmax_row<double>(x2.view().row(t), cols, expected.view().row(t));
        double total = 0;
        for (index_t j = 0; j < cols; ++j) total += p(t, j);
        CHECK(std::abs(total - 1) < 10 * bound);
        CHECK(difference(static_cast<double>(lse[static_cast<std::size_t>(t)]), log_sum) < bound);
        CHECK(difference(static_cast<double>(kernel::log_sum_exp_row<T>(x.view().row(t), cols)), log_sum) <
              bound);
    }
    CHECK(difference(p, expected) < bound);
    CHECK(p.guards_hold());
    for (const bool accumulate : {false, true}) {
        dl = before;
        guarded_rows<double> from(p), dl2(before), d(1, cols, 5);
        kernel::softmax_backward_rows<T>(executor_ref(), p.view(), dp.view(), dl.view(), accumulate);
        for (index_t t = 0; t < rows; ++t) {
            plain::softmax_backward_row<double>(from.view().row(t), dp2.view().row(t), cols, d.values.data());
            for (index_t j = 0; j < cols; ++j) dl2.view()(t, j) = d(0, j) + (accumulate ? before(t, j) : 0);
        }
        CHECK(difference(dl, dl2) < 10 * bound);
        CHECK(dl.guards_hold());
    }
    // In place, and with threads, bit for bit the same.
    thread_pool pool(3);
    guarded_rows<T> same = x;
    kernel::softmax_rows<T>(pool, same.view(), same.view(), nullptr);
    CHECK(same.values == p.values);
}

}  // namespace

TEST_CASE("softmax: rows and their gradients against their plain twins", "[kernel][softmax]") {
    for (const index_t rows : {index_t{0}, index_t{1}, index_t{5}, index_t{300}}) {
        for (const index_t cols :
             {index_t{1}, index_t{2}, index_t{7}, index_t{8}, index_t{16}, index_t{33}, index_t{100}}) {
            if (rows == 300 && cols != 7) continue;
            check_softmax<double>(rows, cols, 1, 1e-14);
            check_softmax<double>(rows, cols, 400, 1e-13);
            check_softmax<float>(rows, cols, 1, 1e-6);
        }
    }
}

TEST_CASE("softmax: infinities and NaN", "[kernel][softmax]") {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    std::vector<double> x{0, -infinity, 0}, p(3);
    CHECK(kernel::softmax_row<double>(x.data(), 3, p.data()) == Approx(std::log(2.0)).epsilon(1e-15));
    CHECK(p == std::vector<double>{0.5, 0, 0.5});
    for (const index_t at : {index_t{0}, index_t{9}, index_t{18}}) {
        std::vector<double> bad(19, 1.0), out(19);
        bad[static_cast<std::size_t>(at)] = std::numeric_limits<double>::quiet_NaN();
        CHECK(std::isnan(kernel::softmax_row<double>(bad.data(), 19, out.data())));
        for (double v : out) CHECK(std::isnan(v));
    }
    std::vector<double> none(3, -infinity);
    kernel::softmax_row<double>(none.data(), 3, p.data());
    for (double v : p) CHECK(std::isnan(v));
}

namespace {

template <class T>
void check_streaming(index_t cols) {
    CAPTURE(cols);
    constexpr index_t rows = 4;
    buffer<T> x(rows * cols), ordinary(rows * cols), past(rows * cols);
    for (index_t i = 0; i < x.size(); ++i) x[i] = static_cast<T>(i * 37 % 101) * T(0.1);
    x[0] = -std::numeric_limits<T>::infinity();
    x[2 * cols + cols / 2] = std::numeric_limits<T>::quiet_NaN();
    for (index_t t = 0; t < rows; ++t) {
        const T* row = x.data() + t * cols;
        const T a = kernel::softmax_row<T>(row, cols, ordinary.data() + t * cols);
        const T b = kernel::detail::softmax_row_streamed<T, simd::default_arch>(row, cols,
                                                                                past.data() + t * cols, row);
        simd::stream_fence();
        CHECK((a == b || (t == 2 && std::isnan(a) && std::isnan(b))));
        bool same = true;
        for (index_t j = t * cols; j < (t + 1) * cols; ++j) {
            same = same && (t == 2 ? std::isnan(ordinary[j]) && std::isnan(past[j]) : ordinary[j] == past[j]);
        }
        CHECK(same);
    }
}

}  // namespace

TEST_CASE("softmax: stores past the caches write the same bits", "[kernel][softmax]") {
    for (const index_t registers : {1, 2, 5, 64}) {
        check_streaming<float>(registers * simd::lanes<float>);
        check_streaming<double>(registers * simd::lanes<double>);
    }
}
