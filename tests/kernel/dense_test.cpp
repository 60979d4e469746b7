#include <mox/kernel/dense.hpp>

#include <cmath>
#include <vector>

#include <mox/exec/thread_pool.hpp>
#include <mox/kernel/reference/gemm.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using mox_test::difference;
using mox_test::guarded_rows;
using mox_test::panel_matrices;

TEST_CASE("dense: a map, its transpose and its weight gradient", "[kernel][dense]") {
    namespace plain = kernel::reference;
    thread_pool pool(3);
    for (const executor_ref exec : {executor_ref(), executor_ref(pool)}) {
        for (const index_t rows : {index_t{0}, index_t{1}, index_t{9}, index_t{200}}) {
            constexpr index_t in = 13, out = 21;
            panel_matrices<double> w(1, in, out, 1), dw(1, in, out, 2);
            guarded_rows<double> x(rows, in, 3), y(rows, out, 4), dy(rows, out, 5), dx(rows, in, 6);
            const guarded_rows<double> before = dx;
            kernel::dense<double>(exec, w.view(), x.view(), y.view());
            kernel::dense_transposed<double>(exec, w.view(), dy.view(), dx.view(), true);
            kernel::dense_weight_gradient<double>(exec, x.view(), dy.view(), dw.view(), false);
            guarded_rows<double> y2(y), dx2(before), dw2(in, out, 7);
            plain::product<double>(x.view(), nullptr, w.plain_view(), nullptr, y2.view(), false);
            plain::product_transposed<double>(dy.view(), nullptr, w.plain_view(), dx2.view(), true);
            plain::weight_gradient<double>(x.view(), nullptr, dy.view(), dw2.view(), false);
            CHECK(difference(y, y2) < 1e-12);
            CHECK(difference(dx, dx2) < 1e-12);
            for (index_t k = 0; k < in; ++k) {
                for (index_t n = 0; n < out; ++n) CHECK(std::abs(dw.view()(k, n) - dw2(k, n)) < 1e-11);
            }
            CHECK(y.guards_hold());
            CHECK(dx.guards_hold());
        }
    }
}
