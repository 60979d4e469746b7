#include <mox/kernel/dot.hpp>

#include <vector>

#include <mox/exec/thread_pool.hpp>
#include <mox/kernel/reference/dot.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using mox_test::difference;
using mox_test::guarded_rows;

namespace {

template <class T>
void check_shape(index_t rows, index_t cols, executor_ref exec, double bound) {
    CAPTURE(rows, cols);
    namespace plain = kernel::reference;
    guarded_rows<T> x(rows, cols, 1), w(1, cols, 2), dx(rows, cols, 3);
    const guarded_rows<T> before = dx;
    guarded_rows<double> x2(x), w2(w);
    std::vector<T> out(static_cast<std::size_t>(rows) + 1, T(5)), dout;
    std::vector<double> out2(static_cast<std::size_t>(rows) + 1, 5), dout2;
    kernel::dot_rows<T>(exec, x.view(), w.values.data(), out.data());
    plain::dot_rows<double>(x2.view(), w2.values.data(), out2.data());
    CHECK(difference(out, out2) < bound);
    for (index_t t = 0; t < rows; ++t) {
        dout2.push_back(t % 3 == 1 ? 0 : 0.25 * static_cast<double>(t % 5) - 1);
        dout.push_back(static_cast<T>(dout2.back()));
    }
    for (const bool accumulate : {true, false}) {
        for (const bool wanted : {true, false}) {
            for (const bool trained : {true, false}) {
                dx = before;
                guarded_rows<double> dx2(before);
                std::vector<T> dw(static_cast<std::size_t>(cols) + 1, T(2));
                std::vector<double> dw2(static_cast<std::size_t>(cols) + 1, 2);
                kernel::dot_rows_backward<T>(exec, x.view(), w.values.data(), dout.data(),
                                             wanted ? dx.view() : matrix_view<T>{},
                                             trained ? dw.data() : nullptr, accumulate);
                plain::dot_rows_backward<double>(x2.view(), w2.values.data(), dout2.data(),
                                                 wanted ? dx2.view() : matrix_view<double>{},
                                                 trained ? dw2.data() : nullptr, accumulate);
                CHECK(difference(dx, dx2) < bound);
                CHECK(difference(dw, dw2) < bound);
                CHECK(dx.guards_hold());
            }
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
