#include <mox/kernel/panels.hpp>

#include <set>
#include <vector>

#include "../support/catch.hpp"

using namespace mox;

namespace {

template <class T>
void check_layout(index_t rows, index_t cols) {
    using layout = kernel::panel_layout<T>;
    const index_t padded = layout::padded(cols);
    CHECK(padded >= cols);
    CHECK(padded < cols + layout::lanes);
    CHECK(padded % layout::lanes == 0);
    std::set<index_t> seen;
    for (index_t k = 0; k < rows; ++k) {
        for (index_t n = 0; n < padded; ++n) {
            const index_t at = layout::offset(rows, padded, k, n);
            CHECK(at >= 0);
            CHECK(at < rows * padded);
            CHECK(seen.insert(at).second);
        }
    }
    std::vector<T> memory(static_cast<std::size_t>(rows * padded));
    const kernel::panel_view<T> v(memory.data(), rows, padded);
    index_t total = 0;
    for (index_t p = 0; p < v.panels(); ++p) {
        // Row k of a panel holds its columns side by side.
        for (index_t k = 0; k < rows; ++k) {
            for (index_t j = 0; j < v.width(p); ++j) {
                CHECK(&v(k, p * layout::width + j) == v.panel(p) + k * v.width(p) + j);
            }
        }
        total += v.width(p);
    }
    CHECK(total == padded);
    CHECK(v.size() == rows * padded);
}

template <class T>
void check_gated(index_t hidden) {
    using layout = kernel::panel_layout<T>;
    const index_t padded = layout::padded_gated(hidden);
    std::set<index_t> seen;
    for (index_t j = 0; j < hidden; ++j) {
        const index_t gate = layout::gated_column(hidden, j, 0), up = layout::gated_column(hidden, j, 1);
        CHECK(gate < padded);
        CHECK(up < padded);
        // Both in one panel, so that one tile has them.
        CHECK(gate / layout::width == up / layout::width);
        CHECK(seen.insert(gate).second);
        CHECK(seen.insert(up).second);
    }
}

}  // namespace

TEST_CASE("panels: every element has its own place", "[kernel][panels]") {
    for (const index_t cols : {index_t{1}, index_t{8}, index_t{15}, index_t{64}, index_t{65}, index_t{200}}) {
        for (const index_t rows : {index_t{1}, index_t{5}}) {
            check_layout<float>(rows, cols);
            check_layout<double>(rows, cols);
        }
        check_gated<float>(cols);
        check_gated<double>(cols);
    }
}
