#include <mox/core/random.hpp>

#include <array>
#include <cmath>
#include <cstdint>

#include "../support/catch.hpp"

using namespace mox;

TEST_CASE("random: the published test vectors of Philox 4x32-10", "[core][random]") {
    using block = std::array<std::uint32_t, 4>;
    CHECK(random_stream(0, 0).block(0) == block{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
    const std::uint64_t ones = ~std::uint64_t{0};
    CHECK(random_stream(ones, ones).block(ones) == block{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
    CHECK(random_stream(0x299f31d0a4093822ull, 0x0370734413198a2eull).block(0x85a308d3243f6a88ull) ==
          block{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u});
}

TEST_CASE("random: numbers are a function of seed, stream and position", "[core][random]") {
    const random_stream a(1, 2), b(1, 2);
    CHECK(a.bits(17) == b.bits(17));
    CHECK(a.bits(17) == a.block(4)[1]);
    CHECK(random_stream(1, 3).block(0) != a.block(0));
    CHECK(random_stream(2, 2).block(0) != a.block(0));
}

TEST_CASE("random: uniform and normal have the right moments", "[core][random]") {
    const random_stream r(5, 6);
    constexpr std::uint64_t n = 40000;
    double mean = 0, square = 0, normal_mean = 0, normal_square = 0, fourth = 0;
    bool inside = true;
    for (std::uint64_t i = 0; i < n; ++i) {
        const double u = r.uniform(i), z = r.normal(i);
        inside = inside && u >= 0 && u < 1 && std::isfinite(z);
        mean += u / n;
        square += u * u / n;
        normal_mean += z / n;
        normal_square += z * z / n;
        fourth += z * z * z * z / n;
    }
    CHECK(inside);
    // Five standard errors each.
    CHECK(std::abs(mean - 0.5) < 5 * 0.289 / 200);
    CHECK(std::abs(square - 1.0 / 3) < 5 * 0.298 / 200);
    CHECK(std::abs(normal_mean) < 5.0 / 200);
    CHECK(std::abs(normal_square - 1) < 5 * 1.415 / 200);
    CHECK(std::abs(fourth - 3) < 5 * 9.8 / 200);
}
