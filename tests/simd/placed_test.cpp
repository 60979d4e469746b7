#include <mox/simd/placed.hpp>

#include <cmath>
#include <limits>

#include "../support/catch.hpp"

using namespace mox;

TEMPLATE_TEST_CASE("placed: the value in all lanes, and the place", "[simd]", float, double) {
    using T = TestType;
    using limits = std::numeric_limits<T>;
    const simd::placed<T> pairs[] = {{T(1.5), 7},
                                     {T(-0.0), -1},
                                     {limits::denorm_min(), std::numeric_limits<row_t>::max()},
                                     {-limits::infinity(), std::numeric_limits<row_t>::min()}};
    for (const auto& pair : pairs) {
        const auto [value, place] = simd::load_spread<T>(&pair);
        CHECK(place == pair.place);
        T all[simd::lanes<T>];
        simd::store(all, value);
        for (const T v : all) CHECK((v == pair.value && std::signbit(v) == std::signbit(pair.value)));
    }
    const simd::placed<T> none{limits::quiet_NaN(), 3};
    CHECK(simd::reduce_add(simd::load_spread<T>(&none).value) != T(0));
}
