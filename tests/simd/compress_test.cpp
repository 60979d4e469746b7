#include <mox/simd/compress.hpp>

#include <limits>
#include <vector>

#include "../support/catch.hpp"

using namespace mox;

namespace {

template <class T>
void check(index_t count, index_t every) {
    CAPTURE(count, every);
    constexpr index_t L = simd::lanes<T>;
    std::vector<T> from;
    for (index_t i = 0; i < count; ++i)
        from.push_back((i * i + 3 * i) % every == 0 ? static_cast<T>(i - 7) : T(i % 2 ? -0.0 : 0.0));
    std::vector<T> values(static_cast<std::size_t>(count + L + 1), T(-99));
    std::vector<row_t> places(values.size(), -99);
    const index_t n = simd::compress_non_zero<T>(from.data(), count, 100, 3, values.data(), places.data());
    index_t expected = 0;
    for (index_t i = 0; i < count; ++i) {
        if (from[static_cast<std::size_t>(i)] == T(0)) continue;
        REQUIRE(values[static_cast<std::size_t>(expected)] == from[static_cast<std::size_t>(i)]);
        REQUIRE(places[static_cast<std::size_t>(expected)] == static_cast<row_t>(100 + 3 * i));
        ++expected;
    }
    CHECK(n == expected);
    // No more than a register behind the last value is touched.
    CHECK(values[static_cast<std::size_t>(count + L)] == T(-99));
    CHECK(places[static_cast<std::size_t>(count + L)] == -99);
}

}  // namespace

TEMPLATE_TEST_CASE("compress: values that are not zero, in their order", "[simd]", float, double) {
    for (index_t count : {0, 1, 7, 16, 17, 32, 61}) {
        for (index_t every : {1, 2, 4, 1000}) check<TestType>(count, every);
    }
}

TEMPLATE_TEST_CASE("compress: a smallest number and NaN are values", "[simd]", float, double) {
    using T = TestType;
    std::vector<T> from(32, T(0)), values(48);
    std::vector<row_t> places(48);
    from[3] = std::numeric_limits<T>::denorm_min();
    from[20] = std::numeric_limits<T>::quiet_NaN();
    from[31] = -std::numeric_limits<T>::infinity();
    REQUIRE(simd::compress_non_zero<T>(from.data(), 32, 0, 1, values.data(), places.data()) == 3);
    CHECK(values[0] == from[3]);
    CHECK(values[1] != values[1]);
    CHECK(values[2] == from[31]);
    CHECK((places[0] == 3 && places[1] == 20 && places[2] == 31));
}
