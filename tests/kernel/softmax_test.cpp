#include <mox/kernel/softmax.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
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
    constexpr index_t rows = 6;
    buffer<T> x(rows * cols), ordinary(rows * cols), past(rows * cols), lse(rows);
    for (index_t i = 0; i < x.size(); ++i) x[i] = static_cast<T>(i * 37 % 101) * T(0.1);
    x[0] = -std::numeric_limits<T>::infinity();
    x[2 * cols + cols / 2] = std::numeric_limits<T>::quiet_NaN();
    const auto same = [](T a, T b) { return a == b || (std::isnan(a) && std::isnan(b)); };
    // Also ranges of no row and of one.
    for (const auto& [begin, end] : {std::pair<index_t, index_t>{0, 1}, {1, 1}, {1, rows}}) {
        kernel::detail::softmax_rows_streamed<T, simd::default_arch>(
            {x.data(), rows, cols}, {past.data(), rows, cols}, lse.data(), begin, end);
    }
    simd::stream_fence();
    for (index_t t = 0; t < rows; ++t) {
        const T a = kernel::softmax_row<T>(x.data() + t * cols, cols, ordinary.data() + t * cols);
        CHECK(same(a, lse[t]));
        bool equal = true;
        for (index_t j = t * cols; j < (t + 1) * cols; ++j) equal = equal && same(ordinary[j], past[j]);
        CHECK(equal);
        CHECK(std::isnan(a) == (t == 2 || (cols == 1 && t == 0)));
    }
}

}  // namespace

TEST_CASE("softmax: stores past the caches write the same bits", "[kernel][softmax]") {
    for (const index_t registers : {1, 2, 5, 64}) {
        check_streaming<float>(registers * simd::lanes<float>);
        check_streaming<double>(registers * simd::lanes<double>);
    }
}

TEST_CASE("softmax: shifted rows, sums of one, masked values", "[kernel][softmax]") {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    for (const index_t cols : {1, 3, 8, 16, 61, 64, 200}) {
        CAPTURE(cols);
        guarded_rows<float> x(1, cols, 5, 4), shifted = x, p(1, cols, 6), q(1, cols, 7);
        for (index_t j = 0; j < cols; ++j) {
            // Multiples of 1/256, so that adding 1024 is exact.
            float& v = x.values[static_cast<std::size_t>(j)];
            v = std::round(v * 256) / 256;
            shifted.values[static_cast<std::size_t>(j)] = v + 1024;
        }
        kernel::softmax_rows<float>({}, x.view(), p.view(), nullptr);
        kernel::softmax_rows<float>({}, shifted.view(), q.view(), nullptr);
        CHECK(p.values == q.values);
        double total = 0;
        for (index_t j = 0; j < cols; ++j) total += p(0, j);
        CHECK(total == Approx(1).epsilon(2e-7));
        // What is masked weighs nothing and does not change the bits of the others' exponentials.
        if (cols == 1) continue;
        x.view().row(0)[cols / 2] = -infinity;
        kernel::softmax_rows<float>({}, x.view(), p.view(), nullptr);
        CHECK(p(0, cols / 2) == 0);
        total = 0;
        for (index_t j = 0; j < cols; ++j) total += p(0, j);
        CHECK(total == Approx(1).epsilon(2e-7));
        // The largest numbers there are: differences, not products, decide.
        for (index_t j = 0; j < cols; ++j) x.view().row(0)[j] = j % 2 ? 3e38f : 3e38f / 2;
        kernel::softmax_rows<float>({}, x.view(), p.view(), nullptr);
        for (index_t j = 0; j < cols; ++j)
            CHECK(p(0, j) == (j % 2 ? Approx(1.0 / static_cast<double>(cols / 2)) : Approx(0)));
        for (index_t j = 0; j < cols; ++j) x.view().row(0)[j] = -infinity;
        kernel::softmax_rows<float>({}, x.view(), p.view(), nullptr);
        for (index_t j = 0; j < cols; ++j) CHECK(std::isnan(p(0, j)));
    }
}

TEST_CASE("softmax: equal values weigh the same wherever they stand", "[kernel][softmax]") {
    // 0 to 2 registers and every tail: the last register computes as the others do.
    for (index_t cols = 1; cols <= 3 * simd::lanes<float>; ++cols) {
        std::vector<float> x(static_cast<std::size_t>(cols), -1.37f), p(x.size());
        x[0] = 0.25f;
        kernel::softmax_row<float>(x.data(), cols, p.data());
        for (index_t j = 2; j < cols; ++j) CHECK(p[static_cast<std::size_t>(j)] == p[1]);
    }
}

TEST_CASE("softmax: backward past the caches writes the same bits", "[kernel][softmax]") {
    constexpr index_t rows = 3, cols = 5 * simd::lanes<float>;
    buffer<float> p(rows * cols), dp(rows * cols), ordinary(rows * cols), past(rows * cols);
    for (index_t i = 0; i < p.size(); ++i) {
        p[i] = static_cast<float>(i * 37 % 101) * 0.01f;
        dp[i] = static_cast<float>(i * 53 % 97) * 0.02f - 1;
    }
    using rows_in = matrix_view<const float>;
    const rows_in from{p.data(), rows, cols}, gradient{dp.data(), rows, cols};
    kernel::detail::softmax_backward_range<float, simd::default_arch, false, false>(
        from, gradient, {ordinary.data(), rows, cols}, 0, rows);
    kernel::detail::softmax_backward_range<float, simd::default_arch, true, false>(
        from, gradient, {past.data(), rows, cols}, 0, rows);
    simd::stream_fence();
    CHECK(std::equal(past.data(), past.data() + rows * cols, ordinary.data()));
    // Over its own gradient.
    kernel::softmax_backward_rows<float>({}, from, gradient, {dp.data(), rows, cols}, false);
    CHECK(std::equal(dp.data(), dp.data() + rows * cols, ordinary.data()));
}

TEST_CASE("softmax: backward against its plain twin", "[kernel][softmax]") {
    for (const index_t cols : {index_t{1}, index_t{19}, index_t{64}}) {
        guarded_rows<double> x(1, cols, 1), p(1, cols, 2), dp(1, cols, 3), dl(1, cols, 4);
        std::vector<double> expected(static_cast<std::size_t>(cols));
        kernel::reference::softmax_row<double>(x.values.data(), cols, p.values.data());
        kernel::softmax_backward_rows<double>({}, p.view(), dp.view(), dl.view(), false);
        kernel::reference::softmax_backward_row<double>(p.values.data(), dp.values.data(), cols,
                                                        expected.data());
        for (index_t j = 0; j < cols; ++j)
            CHECK(dl(0, j) == Approx(expected[static_cast<std::size_t>(j)]).margin(1e-15));
    }
}
