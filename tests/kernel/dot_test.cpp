#include <mox/kernel/dot.hpp>

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
    guarded_rows<T> x(rows, cols, 1), w(1, cols, 2), dx(rows, cols, 3);
    const guarded_rows<T> before = dx;
    std::vector<T> out(static_cast<std::size_t>(rows) + 1, T(5)), dout;
    kernel::dot_rows<T>(exec, x.view(), w.values.data(), out.data());
    for (index_t t = 0; t < rows; ++t) {
        double sum = 0;
        for (index_t j = 0; j < cols; ++j) sum += x(t, j) * w(0, j);
        CHECK(std::abs(static_cast<double>(out[static_cast<std::size_t>(t)]) - sum) < bound);
        dout.push_back(t % 3 == 1 ? T(0) : static_cast<T>(0.25 * static_cast<double>(t % 5) - 1));
    }
    CHECK(out.back() == T(5));
    for (const bool accumulate : {true, false}) {
        for (const bool wanted : {true, false}) {
            dx = before;
            std::vector<T> dw(static_cast<std::size_t>(cols) + 1, T(2));
            kernel::dot_rows_backward<T>(exec, x.view(), w.values.data(), dout.data(),
                                         wanted ? dx.view() : matrix_view<T>{}, dw.data(), accumulate);
            for (index_t j = 0; j < cols; ++j) {
                double sum = accumulate ? 2 : 0;
                for (index_t t = 0; t < rows; ++t) {
                    const double d = static_cast<double>(dout[static_cast<std::size_t>(t)]);
                    sum += d * x(t, j);
                    CHECK(std::abs(dx(t, j) - (before(t, j) + (wanted ? d * w(0, j) : 0))) < bound);
                }
                CHECK(std::abs(static_cast<double>(dw[static_cast<std::size_t>(j)]) - sum) < bound);
            }
            CHECK(dw.back() == T(2));
            CHECK(dx.guards_hold());
        }
    }
}

}  // namespace

TEST_CASE("dot products of rows, and their gradients", "[kernel][dot]") {
    thread_pool pool(3);
    for (const executor_ref exec : {executor_ref(), executor_ref(pool)}) {
        for (const index_t rows : {index_t{0}, index_t{1}, index_t{90}}) {
            for (const index_t cols : {index_t{1}, index_t{7}, index_t{16}, index_t{131}}) {
                check_shape<double>(rows, cols, exec, 1e-12);
                check_shape<float>(rows, cols, exec, 1e-4);
            }
        }
    }
}

TEST_CASE("dot product of nothing is zero", "[kernel][dot]") {
    CHECK(kernel::dot_row<double>(nullptr, nullptr, 0) == 0.0);
}
