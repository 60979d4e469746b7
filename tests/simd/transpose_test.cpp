#include <mox/simd/transpose.hpp>

#include <vector>

#include "../support/catch.hpp"

using namespace mox;

namespace {

template <class T>
void check(index_t count) {
    constexpr index_t L = simd::lanes<T>;
    const index_t stride = count + 3;
    std::vector<T> rows, columns(static_cast<std::size_t>(count * L + 1), T(-1));
    for (index_t i = 0; i < L * stride; ++i) rows.push_back(static_cast<T>(i));
    simd::transpose_lanes<T>(rows.data(), stride, count, columns.data());
    for (index_t j = 0; j < count; ++j) {
        for (index_t i = 0; i < L; ++i)
            REQUIRE(columns[static_cast<std::size_t>(j * L + i)] ==
                    rows[static_cast<std::size_t>(i * stride + j)]);
    }
    CHECK(columns.back() == T(-1));
}

}  // namespace

TEST_CASE("transpose: as many rows as lanes, any number of columns", "[simd]") {
    for (index_t count : {0, 1, 3, 4, 8, 16, 17, 33, 64}) {
        check<float>(count);
        check<double>(count);
    }
}
