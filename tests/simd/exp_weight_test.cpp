#include <mox/simd/exp_weight.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "../support/catch.hpp"

using namespace mox;

namespace {

float weight_of(float x) {
    alignas(64) float values[simd::lanes<float>];
    for (float& v : values) v = x;
    simd::store(values, simd::weight(simd::load<float>(values)));
    for (const float v : values) CHECK(std::memcmp(&v, values, sizeof v) == 0);
    return values[0];
}

}  // namespace

TEST_CASE("exponential of softmax: its bound against double", "[simd]") {
    // Every 97th float from -0 to -126, and the whole interval of the polynomial.
    double worst = 0;
    std::vector<float> x;
    const auto flush = [&] {
        constexpr index_t L = simd::lanes<float>;
        while (static_cast<index_t>(x.size()) % L != 0) x.push_back(0.0f);
        std::vector<float> y(x.size());
        for (index_t i = 0; i < static_cast<index_t>(x.size()); i += L)
            simd::store(y.data() + i, simd::weight(simd::load<float>(x.data() + i)));
        for (std::size_t i = 0; i < x.size(); ++i) {
            const double exact = std::exp2(static_cast<double>(x[i]));
            worst = std::max(worst, std::abs(static_cast<double>(y[i]) - exact) / exact);
        }
        x.clear();
    };
    for (std::uint32_t bits = 0x80000000u;; bits += 97) {
        float v;
        std::memcpy(&v, &bits, sizeof v);
        if (!(v >= -126.0f)) break;
        x.push_back(v);
        if (x.size() == 65536) flush();
    }
    for (int i = 0; i <= 1 << 20; ++i) x.push_back(-static_cast<float>(i) / (1 << 20));
    flush();
    INFO(worst);
    CHECK(worst < 2.0e-7);
}

TEST_CASE("exponential of softmax: a unit is multiplied without rounding", "[simd]") {
    // e^x, every 997th float down to -87: the bound of 2^x and the rounding of log2(e) itself.
    constexpr float unit = simd::weight_unit<float>;
    const double off = std::abs(static_cast<double>(unit) * 0.6931471805599453 - 1);
    double worst = 0;
    for (std::uint32_t bits = 0x80000000u;; bits += 997) {
        float x;
        std::memcpy(&x, &bits, sizeof x);
        if (!(x >= -87.0f)) break;
        const double exact = std::exp(static_cast<double>(x));
        const double y = simd::reduce_max(simd::weight(simd::batch<float>(x), unit));
        // Without a fused operation the product is rounded.
        const double allowed =
            (off + (simd::lanes<float> == 16 ? 0 : 1.2e-7)) * std::abs(static_cast<double>(x));
        worst = std::max(worst, std::abs(y - exact) / exact - allowed);
    }
    INFO(worst);
    CHECK(worst < 2.0e-7);
    using batch = simd::batch<float>;
    CHECK(simd::reduce_max(simd::weight(batch(0.0f), unit)) == 1.0f);
    for (const float x : {-88.0f, -1e4f, -3e38f, -std::numeric_limits<float>::infinity()})
        CHECK(simd::reduce_max(simd::weight(batch(x), unit)) == 0.0f);
    CHECK(std::isnan(simd::reduce_max(simd::weight(batch(std::nanf("")), unit))));
}

#if defined(__AVX512F__)
TEST_CASE("exponential of softmax: its table is rounded right", "[simd]") {
    for (std::uint32_t i = 0; i < 32; ++i) {
        const float power = static_cast<float>(std::exp2(i / 32.0));
        CHECK(simd::detail::powers.bits[i] + (i << 18) == std::bit_cast<std::uint32_t>(power));
    }
}
#endif

TEST_CASE("exponential of softmax: ends, infinities and NaN", "[simd]") {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    CHECK(weight_of(0.0f) == 1.0f);
    CHECK(weight_of(-0.0f) == 1.0f);
    CHECK(weight_of(-1.0f) == 0.5f);
    CHECK(weight_of(-126.0f) == std::numeric_limits<float>::min());
    for (const float x : {-126.6f, -127.0f, -130.0f, -1000.0f, -3e38f, -infinity}) {
        CAPTURE(x);
        CHECK(weight_of(x) == 0.0f);
        CHECK(!std::signbit(weight_of(x)));
    }
    CHECK(std::isnan(weight_of(std::numeric_limits<float>::quiet_NaN())));
    CHECK(std::isnan(weight_of(-std::numeric_limits<float>::quiet_NaN())));
    // Whatever a NaN carries in its low bits.
    for (const std::uint32_t bits : {0x7fc00001u, 0xffc001ffu, 0x7fffffffu, 0xffffffffu, 0x7fc00080u}) {
        float x;
        std::memcpy(&x, &bits, sizeof x);
        CHECK(std::isnan(weight_of(x)));
    }
}

TEST_CASE("exponential of softmax: double counts in natural units", "[simd]") {
    using batch = simd::batch<double>;
    CHECK(simd::weight_unit<double> == 1.0);
    CHECK(simd::weight_unit<float> == Approx(1.4426950408889634));
    for (const double x : {0.0, -1e-9, -0.3, -17.0, -700.0}) {
        const double y = simd::reduce_max(simd::weight(batch(x)));
        CHECK(y == Approx(std::exp(x)).epsilon(1e-14));
    }
    const double infinity = std::numeric_limits<double>::infinity();
    CHECK(simd::reduce_max(simd::weight(batch(-infinity))) == 0.0);
    CHECK(std::isnan(simd::reduce_max(simd::weight(batch(std::nan(""))))));
}
