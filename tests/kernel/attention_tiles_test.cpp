#include <mox/kernel/attention_tiles.hpp>

#include <limits>
#include <vector>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using namespace mox::kernel;
using mox_test::guarded_rows;

namespace {

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

// A block of rows and keys in the middle of a causal sequence.
const row_t query[] = {0, 40}, key[] = {0, 60};
kernel::detail::attention_sequence sequence(bool causal) {
    return {{1, 1, 1, causal, 1}, {query, key, 1}, 0};
}

}  // namespace

TEST_CASE("attention tiles: transposed panels hold the rows and zeros", "[kernel][attention]") {
    for (const index_t n : {1, 7, 16, 17, 64, 65, 130}) {
        for (const index_t d : {1, 5, 8, 16, 33}) {
            guarded_rows<float> from(n, d, 1);
            const index_t padded = panel_layout<float>::padded(n);
            buffer<float> to(d * padded);
            std::fill_n(to.data(), to.size(), -7.0f);
            kernel::detail::pack_transposed<float, simd::default_arch>(from.view(), 0.5f, to.data());
            const panel_view<const float> panels(to.data(), d, padded);
            bool same = true;
            for (index_t k = 0; k < d; ++k) {
                for (index_t j = 0; j < padded; ++j)
                    same &= panels(k, j) == (j < n ? 0.5f * static_cast<float>(from(j, k)) : 0.0f);
            }
            CHECK(same);
        }
    }
}

TEST_CASE("attention tiles: packed rows are padded with zeros", "[kernel][attention]") {
    guarded_rows<double> from(9, 5, 2);
    const index_t stride = round_up(5, simd::lanes<double>);
    buffer<double> to(9 * stride);
    std::fill_n(to.data(), to.size(), -7.0);
    kernel::detail::pack_rows<double, simd::default_arch>(from.view(), to.data(), stride);
    bool same = true;
    for (index_t i = 0; i < 9; ++i) {
        for (index_t c = 0; c < stride; ++c) same &= to[i * stride + c] == (c < 5 ? from(i, c) : 0.0);
    }
    CHECK(same);
}

TEST_CASE("attention tiles: a row's sum has one order wherever it is cut", "[kernel][attention]") {
    using table = kernel::detail::weighted_table<float, simd::default_arch>;
    constexpr index_t dp = round_up(70, simd::lanes<float>), keys = 23;
    guarded_rows<float> b(keys, dp, 3), x(product_rows, keys, 4), start(product_rows, dp, 5);
    const auto rows = b.view(), weights = x.view();
    const float carry[product_rows] = {0.5f, 1.0f, 0.0f, 0.25f, 2.0f, 0.75f};
    std::vector<float> whole(static_cast<std::size_t>(product_rows * dp));
    for (index_t r = 0; r < product_rows; ++r) std::copy_n(start.view().row(r), dp, whole.data() + r * dp);
    std::vector<float> pieces = whole, single = whole;
    table::rows(product_rows, weights.data, weights.stride, rows.data, rows.stride, dp, keys, carry,
                whole.data());
    for (index_t r = 0; r < product_rows; ++r) {
        double expected = carry[r] * start(r, 3);
        for (index_t j = 0; j < keys; ++j) expected += x(r, j) * b(j, 3);
        CHECK(static_cast<double>(whole[static_cast<std::size_t>(r * dp + 3)]) ==
              Approx(expected).margin(1e-5));
    }
    // Two pieces, and rows alone, one of them without a tile for its last keys: the same bits.
    table::rows(product_rows, weights.data, weights.stride, rows.data, rows.stride, dp, 9, carry,
                pieces.data());
    table::rows(product_rows, weights.data + 9, weights.stride, rows.row(9), rows.stride, dp, keys - 9,
                nullptr, pieces.data());
    CHECK(pieces == whole);
    for (index_t r = 0; r < product_rows; ++r) {
        table::rows(1, weights.row(r), weights.stride, rows.data, rows.stride, dp, 11, carry + r,
                    single.data() + r * dp);
        kernel::detail::add_weighted_row<float, simd::default_arch>(
            weights.row(r) + 11, 1, rows.row(11), rows.stride, dp, keys - 11, single.data() + r * dp);
    }
    CHECK(single == whole);
}

TEST_CASE("attention tiles: blocks under a causal mask read only what is seen", "[kernel][attention]") {
    constexpr index_t d = 5, dp = round_up(d, simd::lanes<double>), W = panel_width<double>;
    constexpr index_t stride = round_up(60, W) + W;
    for (const bool causal : {true, false}) {
        const kernel::detail::attention_sequence s = sequence(causal);
        for (const auto& [begin, count] : {std::pair<index_t, index_t>{0, 13}, {13, 20}, {33, 7}}) {
            guarded_rows<double> x(count, d, 6), k(60, d, 7);
            std::vector<double> panels(static_cast<std::size_t>(d * round_up(60, W)));
            kernel::detail::pack_transposed<double, simd::default_arch>(k.view(), 1.0, panels.data());
            const index_t last = s.visible(begin + count - 1);
            const kernel::detail::visible_block block{s, begin, count, W <= 32 ? W : 0, last};
            std::vector<double> scores(static_cast<std::size_t>(count * stride), nan_value);
            kernel::detail::block_products<double, simd::default_arch>(
                block, x.view().data, x.view().stride,
                panel_view<const double>(panels.data(), d, panel_layout<double>::padded(60)), scores.data(),
                stride);
            std::vector<double> rows(static_cast<std::size_t>(60 * dp), nan_value);
            std::vector<double> c(static_cast<std::size_t>(count * dp), 1.0);
            for (index_t r = 0; r < count; ++r) {
                for (index_t j = 0; j < block.keys(r); ++j) {
                    double expected = 0;
                    for (index_t i = 0; i < d; ++i) expected += x(r, i) * k(block.first + j, i);
                    CHECK(scores[static_cast<std::size_t>(r * stride + j)] == Approx(expected).margin(1e-12));
                }
                // Nobody may read behind this.
                for (index_t j = block.keys(r); j < stride; ++j)
                    scores[static_cast<std::size_t>(r * stride + j)] = nan_value;
            }
            for (index_t j = 0; j < last - block.first; ++j)
                std::fill_n(rows.data() + j * dp, dp, 0.25 * static_cast<double>(j));
            kernel::detail::block_weighted_rows<double, simd::default_arch>(
                block, scores.data(), stride, rows.data(), dp, dp, nullptr, c.data());
            for (index_t r = 0; r < count; ++r) {
                double expected = 1;
                for (index_t j = 0; j < block.keys(r); ++j)
                    expected +=
                        scores[static_cast<std::size_t>(r * stride + j)] * 0.25 * static_cast<double>(j);
                CHECK(c[static_cast<std::size_t>(r * dp)] == Approx(expected).margin(1e-10));
            }
        }
    }
}
