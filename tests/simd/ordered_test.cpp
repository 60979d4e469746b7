#include <mox/simd/ordered.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "../support/catch.hpp"

using namespace mox;

namespace {

template <class T>
std::vector<T> values() {
    using limits = std::numeric_limits<T>;
    std::vector<T> all{T(0),   limits::denorm_min(), limits::min(),     T(0.5), T(1), T(1.5),
                       T(3e7), limits::max(),        limits::infinity()};
    for (std::size_t i = 0, n = all.size(); i < n; ++i) all.push_back(-all[i]);
    return all;
}

// What an operation on registers says of two values: in every lane the same.
template <class T, class Operation>
typename simd::ordered<T>::number number(const Operation& operation) {
    typename simd::ordered<T>::number lanes[simd::ordered<T>::L];
    operation().store(lanes);
    for (const auto lane : lanes) REQUIRE(lane == lanes[0]);
    return lanes[0];
}

}  // namespace

TEMPLATE_TEST_CASE("ordered: numbers have the order of their values", "[simd]", float, double) {
    using T = TestType;
    using ordered = simd::ordered<T>;
    const auto of = [](T v) { return ordered(simd::batch<T>(v)); };
    for (const T a : values<T>()) {
        const auto x = number<T>([&] { return of(a); });
        CHECK(ordered::value(x) == a);
        CHECK((x == ordered::infinity) == (a == std::numeric_limits<T>::infinity()));
        CHECK((x == ~ordered::infinity) == (a == -std::numeric_limits<T>::infinity()));
        CHECK(number<T>([] { return ordered::lowest(); }) < x);
        CHECK(number<T>([&] { return ordered::magnitude(simd::batch<T>(a)); }) ==
              number<T>([&] { return of(std::abs(a)); }));
        for (const T b : values<T>()) {
            const auto y = number<T>([&] { return of(b); });
            CAPTURE(a, b);
            CHECK((x < y) == (a < b));
            CHECK((x == y) == (a == b));
            CHECK(number<T>([&] { return max(of(a), of(b)); }) == (a < b ? y : x));
            CHECK(number<T>([&] { return min(of(a), of(b)); }) == (a < b ? x : y));
        }
    }
}

TEMPLATE_TEST_CASE("ordered: NaN lies beyond the infinity of its sign", "[simd]", float, double) {
    using T = TestType;
    using ordered = simd::ordered<T>;
    const T nan = std::copysign(std::numeric_limits<T>::quiet_NaN(), T(1));
    CHECK(number<T>([&] { return ordered(simd::batch<T>(nan)); }) > ordered::infinity);
    CHECK(number<T>([&] { return ordered(simd::batch<T>(-nan)); }) < ~ordered::infinity);
    CHECK(number<T>([&] { return ordered::magnitude(simd::batch<T>(-nan)); }) > ordered::infinity);
    CHECK(std::isnan(ordered::value(number<T>([&] { return ordered(simd::batch<T>(-nan)); }))));
}

TEMPLATE_TEST_CASE("ordered: marks are bits of a word in each lane", "[simd]", float, double) {
    using T = TestType;
    using ordered = simd::ordered<T>;
    constexpr int bits = static_cast<int>(8 * sizeof(T));
    T lanes[ordered::L];
    for (index_t i = 0; i < ordered::L; ++i) lanes[i] = static_cast<T>(i);
    const ordered value(simd::load<T>(lanes));
    ordered set = ordered::none();
    // Lane i has a value of i, which is at least `place` for the places up to i.
    for (int place = 0; place < bits; ++place)
        value.mark(place, ordered(simd::batch<T>(static_cast<T>(place % (bits - 1)))), set);
    typename ordered::number found[ordered::L];
    set.store(found);
    using word = std::make_unsigned_t<typename ordered::number>;
    for (index_t i = 0; i < ordered::L; ++i)
        CHECK(static_cast<word>(found[i]) == (((word{1} << (i + 1)) - 1) | word{1} << (bits - 1)));
}
