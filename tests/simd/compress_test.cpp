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
    std::vector<simd::placed<T>> to(static_cast<std::size_t>(count + L + 1), {T(-99), -99});
    const index_t n = simd::compress_non_zero<T>(from.data(), count, 100, 3, to.data());
    index_t expected = 0;
    for (index_t i = 0; i < count; ++i) {
        if (from[static_cast<std::size_t>(i)] == T(0)) continue;
        REQUIRE(to[static_cast<std::size_t>(expected)].value == from[static_cast<std::size_t>(i)]);
        REQUIRE(to[static_cast<std::size_t>(expected)].place == static_cast<row_t>(100 + 3 * i));
        ++expected;
    }
    CHECK(n == expected);
    // No more than a register behind the last value is touched.
    CHECK(to[static_cast<std::size_t>(count + L)].value == T(-99));
    CHECK(to[static_cast<std::size_t>(count + L)].place == -99);
}

}  // namespace

TEMPLATE_TEST_CASE("compress: values that are not zero, in their order", "[simd]", float, double) {
    for (index_t count : {0, 1, 7, 16, 17, 32, 61}) {
        for (index_t every : {1, 2, 4, 1000}) check<TestType>(count, every);
    }
}

TEMPLATE_TEST_CASE("compress: a smallest number and NaN are values", "[simd]", float, double) {
    using T = TestType;
    std::vector<T> from(32, T(0));
    std::vector<simd::placed<T>> to(48);
    from[3] = std::numeric_limits<T>::denorm_min();
    from[20] = std::numeric_limits<T>::quiet_NaN();
    from[31] = -std::numeric_limits<T>::infinity();
    REQUIRE(simd::compress_non_zero<T>(from.data(), 32, 0, 1, to.data()) == 3);
    CHECK(to[0].value == from[3]);
    CHECK(to[1].value != to[1].value);
    CHECK(to[2].value == from[31]);
    CHECK((to[0].place == 3 && to[1].place == 20 && to[2].place == 31));
}
