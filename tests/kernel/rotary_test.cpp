#include <mox/kernel/rotary.hpp>

#include <vector>

#include <mox/kernel/reference/rotary.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using mox_test::guarded_rows;

namespace {

template <class T>
void check_rotary(index_t heads, index_t head_dim, kernel::rotary_pairs pairs, double bound) {
    constexpr double base = 50;
    const std::vector<row_t> positions{0, 3, 1, 40};
    std::vector<T> table(static_cast<std::size_t>(41 * head_dim));
    kernel::fill_rotary_table(table.data(), 0, 41, head_dim, base);
    // One head more than is rotated: it must stay.
    guarded_rows<T> x(4, (heads + 1) * head_dim, 1);
    const guarded_rows<T> before = x;
    kernel::rotate_rows<T>(executor_ref(), x.view(), heads, head_dim, positions.data(), table.data(), pairs,
                           false);
    guarded_rows<double> expected(before);
    kernel::reference::rotate_rows<double>(expected.view(), heads, head_dim, positions.data(), base, pairs,
                                           false);
    CHECK(mox_test::difference(x, expected) < bound);
    for (index_t t = 0; t < 4; ++t) {
        for (index_t j = heads * head_dim; j < x.cols; ++j) CHECK(x(t, j) == before(t, j));
    }
    CHECK(x.guards_hold());
    kernel::rotate_rows<T>(executor_ref(), x.view(), heads, head_dim, positions.data(), table.data(), pairs,
                           true);
    CHECK(mox_test::difference(x, guarded_rows<double>(before)) < bound);
}

}  // namespace

TEST_CASE("rotary: both conventions against their plain twin, and back", "[kernel][rotary]") {
    for (const auto pairs : {kernel::rotary_pairs::half_split, kernel::rotary_pairs::interleaved}) {
        for (const index_t head_dim : {index_t{2}, index_t{4}, index_t{10}}) {
            check_rotary<double>(3, head_dim, pairs, 1e-13);
            check_rotary<float>(1, head_dim, pairs, 1e-6);
        }
    }
}

TEST_CASE("rotary: a table can be filled in parts", "[kernel][rotary]") {
    std::vector<double> whole(60), parts(60);
    kernel::fill_rotary_table(whole.data(), 0, 10, 6, 10000.0);
    kernel::fill_rotary_table(parts.data(), 0, 4, 6, 10000.0);
    kernel::fill_rotary_table(parts.data(), 4, 10, 6, 10000.0);
    CHECK(whole == parts);
    CHECK(whole[0] == 1.0);
    CHECK(whole[1] == 0.0);
}
