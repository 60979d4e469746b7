#include <mox/transform/ternary_code.hpp>

#include <vector>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using Catch::Matchers::Contains;
using mox_test::normal_numbers;

namespace {

void check_same(const ternary& a, const ternary& b) {
    REQUIRE(a.size() == b.size());
    CHECK(a.scale() == b.scale());
    CHECK(a.count() == b.count());
    index_t wrong = 0;
    for (index_t i = 0; i < a.size(); ++i) wrong += a.sign(i) != b.sign(i);
    CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("ternary code: there and back, near the bound", "[transform][ternary_code]") {
    const auto v = normal_numbers<double>(20000, 1);
    for (const double density : {0.001, 0.05, 0.2, 0.5, 1.0}) {
        CAPTURE(density);
        const ternary t = compress(std::span<const double>(v), {.density = density, .factor = 2});
        const auto bytes = encode(t);
        check_same(decode_ternary(bytes), t);
        const double share = static_cast<double>(t.count()) / 20000;
        CHECK(8.0 * static_cast<double>(bytes.size()) > ternary_bound(20000, share));
        // Golomb's code for a power of two, which misses small gaps' bits where most entries are kept.
        CHECK(8.0 * static_cast<double>(bytes.size()) <
              (density < 0.4 ? 1.05 : 2.05) * ternary_bound(20000, share) + 256);
    }
    check_same(decode_ternary(encode(ternary())), ternary());
    check_same(decode_ternary(encode(ternary(77, 3.5))), ternary(77, 3.5));
}

TEST_CASE("ternary code: the bound is that of its formula", "[transform][ternary_code]") {
    CHECK(ternary_bound(1000, 0.5) == Approx(1000 * (0.5 + 1.0) + 16));
    CHECK(ternary_bound(1000, 1) == Approx(1000 + 16));
    CHECK(ternary_bound(1000, 0) == 16);
    CHECK_THROWS_WITH(ternary_bound(1000, 1.5), Contains("must lie in [0, 1]"));
}

TEST_CASE("ternary code: damaged bytes are refused", "[transform][ternary_code]") {
    const auto v = normal_numbers<double>(300, 1);
    const auto bytes = encode(compress(std::span<const double>(v)));
    for (std::size_t cut = 0; cut < bytes.size(); ++cut)
        CHECK_THROWS_WITH(decode_ternary(std::span(bytes).first(cut)), Contains("cut or damaged"));
    auto more = bytes;
    more[8] = 255;  // more entries than there is room for
    more[9] = 255;
    CHECK_THROWS_WITH(decode_ternary(more), Contains("cut or damaged"));
}

TEST_CASE("ternary code: bytes behind the last entry and gaps beyond the size are refused",
          "[transform][ternary_code]") {
    const auto v = normal_numbers<double>(300, 1);
    auto bytes = encode(compress(std::span<const double>(v)));
    bytes.push_back(0);
    CHECK_THROWS_WITH(decode_ternary(bytes), Contains("cut or damaged"));
    const auto empty = encode(ternary(1000, 2));
    CHECK(decode_ternary(empty, 1000).size() == 1000);
    CHECK_THROWS_WITH(decode_ternary(empty, 999), Contains("has 1000 entries, more than argument 'largest'"));
    // Every single damaged bit: an error, or a vector of the right length.
    bytes.pop_back();
    for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
        auto damaged = bytes;
        damaged[bit / 8] = static_cast<std::uint8_t>(damaged[bit / 8] ^ (1u << bit % 8));
        index_t size = 0;
        try {
            size = decode_ternary(damaged, 1 << 20).size();
        } catch (const mox::error&) {
            continue;
        }
        CHECK(size <= 1 << 20);
    }
}
