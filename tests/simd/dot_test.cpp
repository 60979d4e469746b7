#include <mox/simd/dot.hpp>

#include <cstdint>
#include <cstring>
#include <vector>

#include <mox/core/random.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

constexpr index_t L = simd::lanes<float>;

std::vector<std::uint8_t> some_bytes(std::uint64_t seed) {
    const random_stream numbers(seed, 1);
    std::vector<std::uint8_t> v;
    for (index_t i = 0; i < 4 * L; ++i)
        v.push_back(static_cast<std::uint8_t>(numbers.bits(static_cast<std::uint64_t>(i)) & 255u));
    return v;
}

std::vector<std::int32_t> lanes_of(const simd::words<>& w) {
    std::vector<std::int32_t> v(static_cast<std::size_t>(L));
    std::memcpy(v.data(), &w, sizeof w);
    return v;
}

}  // namespace

TEST_CASE("dot_bytes: unsigned times signed bytes, exactly", "[simd]") {
    for (std::uint64_t seed = 0; seed < 50; ++seed) {
        std::vector<std::uint8_t> a = some_bytes(seed), b = some_bytes(seed + 100);
        if (seed == 0) {
            // The largest sums.
            std::fill(a.begin(), a.end(), std::uint8_t{255});
            std::fill(b.begin(), b.end(), std::uint8_t{128});
        }
        const auto got = lanes_of(
            simd::dot_bytes<simd::default_arch>(simd::words<>(static_cast<std::int32_t>(seed)),
                                                simd::load_words<>(a.data()), simd::load_words<>(b.data())));
        for (index_t i = 0; i < L; ++i) {
            std::int32_t expected = static_cast<std::int32_t>(seed);
            for (index_t j = 0; j < 4; ++j) {
                const auto at = static_cast<std::size_t>(4 * i + j);
                expected += a[at] * static_cast<std::int8_t>(b[at]);
            }
            REQUIRE(got[static_cast<std::size_t>(i)] == expected);
        }
    }
}

TEST_CASE("dot_bf16: pairs of bf16", "[simd]") {
    // Small integers: bf16 and every sum hold them exactly.
    std::vector<float> a(static_cast<std::size_t>(2 * L)), b(a.size());
    std::vector<std::uint16_t> ha(a.size()), hb(a.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
        a[i] = static_cast<float>(i) - 7;
        b[i] = 3 - static_cast<float>(i % 5);
        std::uint32_t u;
        std::memcpy(&u, &a[i], 4);
        ha[i] = static_cast<std::uint16_t>(u >> 16);
        std::memcpy(&u, &b[i], 4);
        hb[i] = static_cast<std::uint16_t>(u >> 16);
    }
    const auto sum = simd::dot_bf16<simd::default_arch>(
        simd::batch<float>(0.5f), simd::load_words<>(ha.data()), simd::load_words<>(hb.data()));
    std::vector<float> got(static_cast<std::size_t>(L));
    simd::store(got.data(), sum);
    for (std::size_t i = 0; i < got.size(); ++i)
        CHECK(got[i] == 0.5f + a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1]);
}

TEST_CASE("nibbles of bytes", "[simd]") {
    const auto bytes = some_bytes(3);
    const simd::words<> v = simd::load_words<>(bytes.data());
    std::vector<std::uint8_t> low(bytes.size()), high(bytes.size());
    const auto l = simd::low_nibbles<simd::default_arch>(v), h = simd::high_nibbles<simd::default_arch>(v);
    std::memcpy(low.data(), &l, low.size());
    std::memcpy(high.data(), &h, high.size());
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        CHECK(low[i] == (bytes[i] & 15));
        CHECK(high[i] == bytes[i] >> 4);
    }
    simd::prefetch_far(nullptr);  // any address is allowed
    CHECK(lanes_of(simd::broadcast_word<>(bytes.data()))[0] == lanes_of(v)[0]);
    CHECK(lanes_of(simd::broadcast_word<>(bytes.data())).back() == lanes_of(v)[0]);
}
