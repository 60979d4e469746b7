#include <mox/kernel/weight_format.hpp>

#include "../support/catch.hpp"
#include "../support/formats.hpp"

using namespace mox;
using namespace mox_test;

namespace {

// A matrix with the given columns, packed and read back.
template <class F>
std::vector<std::vector<double>> packed_and_back(const std::vector<std::vector<double>>& columns,
                                                 bool gated = false) {
    const auto k = static_cast<index_t>(columns[0].size()), n = static_cast<index_t>(columns.size());
    std::vector<double> rows(static_cast<std::size_t>(k * n)), back(rows.size());
    for (index_t i = 0; i < k; ++i) {
        for (index_t j = 0; j < n; ++j)
            rows[static_cast<std::size_t>(i * n + j)] =
                columns[static_cast<std::size_t>(j)][static_cast<std::size_t>(i)];
    }
    constexpr packed_format format = kernel::packed_format_of<F>;
    const index_t cols = gated ? n / 2 : n;
    buffer<std::byte> memory(format.bytes(k, cols, gated));
    CHECK(memory.size() % 64 == 0);
    format.pack(rows.data(), k, cols, gated, memory.data());
    format.unpack(memory.data(), k, cols, gated, back.data());
    std::vector<std::vector<double>> result(columns.size(), std::vector<double>(static_cast<std::size_t>(k)));
    for (index_t i = 0; i < k; ++i) {
        for (index_t j = 0; j < n; ++j)
            result[static_cast<std::size_t>(j)][static_cast<std::size_t>(i)] =
                back[static_cast<std::size_t>(i * n + j)];
    }
    return result;
}

}  // namespace

TEST_CASE("weight formats keep the error they promise, also for hard columns", "[kernel][packed]") {
    for_each_format([](auto format) {
        using F = decltype(format);
        INFO(F::name);
        for (const index_t k : {1, 2, 5, 64, 100, 129}) {
            for (std::uint64_t seed = 0; seed < 5; ++seed) {
                const auto columns = hard_vectors(k, 100 * seed);
                const auto back = packed_and_back<F>(columns);
                for (std::size_t j = 0; j < columns.size(); ++j) {
                    for (index_t i = 0; i < k; ++i) {
                        const auto at = static_cast<std::size_t>(i);
                        CAPTURE(k, j, i, columns[j][at], back[j][at]);
                        REQUIRE(std::abs(columns[j][at] - back[j][at]) <= weight_bound<F>(columns[j], i));
                    }
                }
            }
        }
    });
}

TEST_CASE("weight formats: packing what was packed changes nothing", "[kernel][packed]") {
    for_each_format([](auto format) {
        using F = decltype(format);
        if constexpr (!requires { F::padded_group; }) {
            std::vector<std::vector<double>> columns;
            for (std::uint64_t j = 0; j < 40; ++j) columns.push_back(normal_numbers<double>(37, j));
            const auto once = packed_and_back<F>(columns, true);
            CHECK(packed_and_back<F>(once, true) == once);
        }
    });
}

TEST_CASE("weight formats: gate and up columns of any width find their way back", "[kernel][packed]") {
    for (const index_t n : {1, 7, 16, 33, 70}) {
        std::vector<std::vector<double>> columns;
        for (index_t j = 0; j < 2 * n; ++j) columns.push_back(std::vector<double>(6, double(j - 60)));
        for_each_format([&](auto format) {
            const auto back = packed_and_back<decltype(format)>(columns, true);
            for (std::size_t j = 0; j < columns.size(); ++j) {
                for (index_t i = 0; i < 6; ++i)
                    CHECK(std::abs(back[j][static_cast<std::size_t>(i)] - columns[j][0]) <=
                          weight_bound<decltype(format)>(columns[j], i));
            }
        });
    }
}

TEST_CASE("weight formats: what is not finite stays visible", "[kernel][packed]") {
    for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
        std::vector<std::vector<double>> columns{normal_numbers<double>(12, 1),
                                                 normal_numbers<double>(12, 2)};
        columns[1][4] = bad;
        for_each_format([&](auto format) {
            const auto back = packed_and_back<decltype(format)>(columns);
            for (const double v : back[0]) CHECK(std::isfinite(v));
            CHECK(!std::isfinite(back[1][4]));
            CHECK(std::isnan(back[1][4]) ==
                  (std::isnan(bad) || !std::is_same_v<decltype(format), weight::bf16>));
        });
    }
}

TEST_CASE("bf16 rounds to nearest, ties to even", "[kernel][packed]") {
    const auto round_trip = [](float f) { return kernel::from_bf16(kernel::to_bf16(f)); };
    CHECK(round_trip(1.0f) == 1.0f);
    CHECK(round_trip(1.0f + 1.0f / 256) == 1.0f);               // tie
    CHECK(round_trip(1.0f + 3.0f / 256) == 1.0f + 4.0f / 256);  // tie
    CHECK(round_trip(1.0f + 1.01f / 256) == 1.0f + 2.0f / 256);
    CHECK(round_trip(-2.5f) == -2.5f);
    CHECK(std::signbit(round_trip(-0.0f)));
    CHECK(std::isinf(round_trip(3.4e38f)));
    CHECK(std::isinf(round_trip(-HUGE_VALF)));
    CHECK(std::isnan(round_trip(std::numeric_limits<float>::quiet_NaN())));
    CHECK(std::isnan(round_trip(std::bit_cast<float>(0x7f800001u))));  // its payload would round to infinity
}

TEST_CASE("weight formats: bytes per weight", "[kernel][packed]") {
    CHECK(kernel::packed_format_of<weight::bf16>.bytes(512, 256, false) == 512 * 256 * 2);
    CHECK(kernel::packed_format_of<weight::int8<>>.bytes(512, 256, false) == 512 * 256 + 256 * 8);
    CHECK(kernel::packed_format_of<weight::int4<>>.bytes(512, 256, false) == 512 * 256 * 9 / 16);
}
