#include <mox/kernel/streaming.hpp>

#include <vector>

#include <mox/core/buffer.hpp>

#include "../support/catch.hpp"

using namespace mox;

TEST_CASE("streaming: large results in whole registers only", "[kernel][streaming]") {
    // Never read or written: only addresses and extents are looked at.
    buffer<float> memory(64);
    const index_t cols = 1024, most = simd::last_level_cache() / 2 / (4 * cols);
    const auto view = [&](float* p, index_t rows, index_t stride) {
        return matrix_view<float>(p, rows, cols, stride);
    };
    CHECK_FALSE(kernel::streams(view(memory.data(), most, cols)));
    CHECK(kernel::streams(view(memory.data(), most + 1, cols)) == simd::has_streaming<float>);
    CHECK_FALSE(kernel::streams(view(memory.data() + 1, most + 1, cols)));
    CHECK_FALSE(kernel::streams(view(memory.data(), most + 1, cols + 1)));
    CHECK_FALSE(kernel::streams(matrix_view<float>{}));
}

TEST_CASE("streaming: rows that do not lie near are asked for", "[kernel][streaming]") {
    const index_t cols = 64, most = kernel::near_bytes() / (4 * cols);
    float value = 0;
    CHECK_FALSE(kernel::asks_ahead(matrix_view<float>(&value, most, cols)));
    CHECK(kernel::asks_ahead(matrix_view<float>(&value, most + 1, cols)));
    CHECK(kernel::asks_ahead(matrix_view<double>(nullptr, most / 2 + 1, cols)));
    CHECK_FALSE(kernel::asks_ahead(matrix_view<const float>{}));
    constexpr index_t mb = index_t{1} << 20;
    static_assert(kernel::near_bytes({mb, 32 * mb, false}) == 4 * mb);
    static_assert(kernel::near_bytes({mb, 96 * mb, false}) == 12 * mb);
    static_assert(kernel::near_bytes({2 * mb, 300 * mb, true}) == mb / 2);
}

TEST_CASE("streaming: a sum in four registers takes every value once", "[kernel][streaming]") {
    for (index_t size = 0; size < 150; ++size) {
        std::vector<double> x(static_cast<std::size_t>(size) + 1);
        for (index_t i = 0; i < size; ++i) x[static_cast<std::size_t>(i)] = static_cast<double>(i + 1);
        kernel::detail::four_sums<double, simd::default_arch> sum;
        kernel::detail::for_each_of_four<double, simd::default_arch>(size, [&](int k, index_t i, index_t n) {
            sum.part[k] = sum.part[k] + simd::load_upto<double, simd::default_arch>(x.data() + i, n);
        });
        CHECK(sum.total() == static_cast<double>(size * (size + 1) / 2));
    }
}
