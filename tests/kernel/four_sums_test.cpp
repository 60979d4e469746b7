#include <mox/kernel/four_sums.hpp>

#include <cstddef>
#include <vector>

#include "../support/catch.hpp"

using namespace mox;

TEMPLATE_TEST_CASE("four_sums: every value once, whole registers but for the last call",
                   "[kernel][four_sums]", float, double) {
    using T = TestType;
    using arch = simd::default_arch;
    constexpr index_t L = simd::lanes<T>;
    for (index_t size = 0; size <= 9 * L + 1; ++size) {
        std::vector<T> ones(static_cast<std::size_t>(size), T(1));
        kernel::detail::four_sums<T, arch> sum;
        index_t next = 0, part = 0;
        bool in_order = true, whole = true;
        kernel::detail::for_each_of_four<T, arch>(size, [&](int k, index_t i, index_t n) {
            in_order = in_order && i == next && 0 <= k && k < 4;
            whole = whole && part == 0;
            next = i + n;
            part = n < L ? 1 : 0;
            sum.part[k] = sum.part[k] + simd::load_upto<T, arch>(ones.data() + i, n);
        });
        CHECK(in_order);
        CHECK(whole);
        CHECK(next == size);
        CHECK(sum.total() == static_cast<T>(size));
    }
}
