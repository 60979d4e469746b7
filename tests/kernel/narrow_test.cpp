#include <mox/kernel/narrow.hpp>

#include <mox/exec/thread_pool.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using mox_test::guarded_rows;
using mox_test::panel_matrices;

// The bits of the wide tile: a router's ties do not depend on how many experts it has.
TEMPLATE_TEST_CASE("narrow_dense: the bits of dense, for every number of columns", "[kernel][narrow]", float,
                   double) {
    using T = TestType;
    thread_pool pool(3);
    for (const executor_ref exec : {executor_ref(), executor_ref(pool)}) {
        for (const index_t rows : {index_t{0}, index_t{1}, index_t{7}, index_t{200}}) {
            for (index_t out = 1; out <= 2 * simd::lanes<T> + 1; ++out) {
                const index_t in = 13 + out;
                CAPTURE(rows, out);
                panel_matrices<T> w(1, in, out, 1);
                guarded_rows<T> x(rows, in, 3), y(rows, out, 4), z(rows, out, 5);
                kernel::narrow_dense<T>(exec, w.view(), x.view(), y.view());
                kernel::dense<T>(exec, w.view(), x.view(), z.view());
                bool same = true;
                for (index_t t = 0; t < rows; ++t) {
                    for (index_t n = 0; n < out; ++n) same = same && y(t, n) == z(t, n);
                }
                CHECK(same);
            }
        }
    }
}
