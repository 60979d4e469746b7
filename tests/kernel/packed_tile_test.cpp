#include <mox/kernel/packed_tile.hpp>

#include <mox/kernel/packed_rows.hpp>
#include <mox/kernel/reference/packed.hpp>

#include "../support/catch.hpp"
#include "../support/formats.hpp"

using namespace mox;
using namespace mox_test;

TEST_CASE("packed tiles of every size are those of the reference", "[kernel][packed]") {
    constexpr index_t L = simd::lanes<float>;
    for_each_format([](auto format) {
        using F = decltype(format);
        constexpr index_t most = kernel::packed_tile_rows<F>;
        for (const index_t k : {1, 3, 8, 64, 90}) {
            for (index_t v = 1; v <= kernel::panel_vectors<>; ++v) {
                const index_t width = v * L;
                buffer<std::byte> panel(F::bytes_of_column(k) * width);
                const auto w = normal_numbers<double>(k * width, 5);
                for (index_t c = 0; c < width; ++c) F::pack(w.data() + c, k, width, panel.data(), width, c);
                const auto x = normal_numbers<float>(most * k, 6);
                arena memory;
                const auto rows = kernel::packed_rows<F, float>::take(memory, most, k);
                kernel::pack_rows<F, float>({}, matrix_view<const float>(x.data(), most, k), rows);
                std::vector<kernel::packed_row<float>> pointers;
                for (index_t r = 0; r < most; ++r) pointers.push_back(rows(r));
                for (index_t r = 1; r <= most; ++r) {
                    std::vector<float> got(static_cast<std::size_t>(r * width), -7.0f), again = got,
                                                                                        expected = got;
                    kernel::packed_tiles<F>::run(r, v, pointers.data(), panel.data(), k, nullptr, got.data(),
                                                 width);
                    kernel::packed_tiles<F>::run(r, v, pointers.data(), panel.data(), k, panel.data(),
                                                 again.data(), width);
                    CHECK(got == again);  // what is asked for does not matter
                    kernel::reference::packed_tile<F, float>(r, pointers.data(), panel.data(), width, k,
                                                             expected.data(), width);
                    for (std::size_t i = 0; i < got.size(); ++i) {
                        // k roundings of 6e-8 of sums that stay below |x| |w|.
                        CAPTURE(F::name, k, v, r, i);
                        REQUIRE(std::abs(got[i] - expected[i]) < 1e-6f * static_cast<float>(k));
                    }
                }
            }
        }
    });
}

TEST_CASE("integer tiles are exact whatever the length", "[kernel][packed]") {
    // All codes at their ends: sums of 2000 products of 127 * 127 pass the 24 bits of a float.
    constexpr index_t k = 2000, L = simd::lanes<float>;
    using F = weight::int8<>;
    buffer<std::byte> panel(F::bytes_of_column(k) * L);
    const std::vector<double> w(static_cast<std::size_t>(k), 127.0);
    for (index_t c = 0; c < L; ++c) F::pack(w.data(), k, 1, panel.data(), L, c);
    const std::vector<float> x(static_cast<std::size_t>(k), -127.0f);
    arena memory;
    const auto rows = kernel::packed_rows<F, float>::take(memory, 1, k);
    kernel::pack_rows<F, float>({}, matrix_view<const float>(x.data(), 1, k), rows);
    const kernel::packed_row<float> row = rows(0);
    std::vector<float> got(static_cast<std::size_t>(L));
    kernel::packed_tiles<F>::run(1, 1, &row, panel.data(), k, nullptr, got.data(), L);
    for (const float v : got) CHECK(v == -127.0f * 127.0f * static_cast<float>(k));
}
