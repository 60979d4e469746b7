#include <mox/kernel/tile.hpp>

#include <cmath>
#include <vector>

#include "../support/catch.hpp"

using namespace mox;

TEST_CASE("tiles: rows are cut evenly and completely", "[kernel][tile]") {
    for (index_t most = 1; most <= 9; ++most) {
        for (index_t size = 0; size < 60; ++size) {
            index_t next = 0, tiles = 0, smallest = 1000, largest = 0;
            kernel::even_tiles(size, most, [&](index_t begin, index_t rows) {
                CHECK(begin == next);
                next += rows;
                ++tiles;
                smallest = std::min(smallest, rows);
                largest = std::max(largest, rows);
            });
            CHECK(next == size);
            CHECK(tiles == (size + most - 1) / most);
            if (size > 0) {
                CHECK(smallest >= 1);
                CHECK(largest <= most);
                CHECK(largest - smallest <= 1);
            }
        }
    }
}

namespace {

// Small integers: every order of summation gives exactly the same.
template <class T>
void check_tables() {
    using arch = simd::default_arch;
    using table = kernel::tile_table<T, arch>;
    constexpr index_t L = simd::lanes<T>, K = 7;
    const auto value = [](index_t i, index_t j) { return static_cast<T>((i * 5 + j * 3) % 11 - 5); };
    for (index_t rows = 1; rows <= kernel::product_rows; ++rows) {
        for (index_t vectors = 1; vectors <= kernel::panel_vectors<arch>; ++vectors) {
            const index_t width = vectors * L;
            std::vector<std::vector<T>> x(static_cast<std::size_t>(rows)), c(static_cast<std::size_t>(rows));
            std::vector<const T*> xs;
            std::vector<T*> cs;
            std::vector<T> b, scale;
            for (index_t k = 0; k < K; ++k) {
                for (index_t j = 0; j < width; ++j) b.push_back(value(k, j));
            }
            for (index_t r = 0; r < rows; ++r) {
                for (index_t k = 0; k < K; ++k) x[static_cast<std::size_t>(r)].push_back(value(r + 3, k));
                c[static_cast<std::size_t>(r)].assign(static_cast<std::size_t>(width) + 1, T(100));
                xs.push_back(x[static_cast<std::size_t>(r)].data());
                cs.push_back(c[static_cast<std::size_t>(r)].data());
                scale.push_back(static_cast<T>(r + 1));
            }
            table::product(rows, vectors, xs.data(), b.data(), width, K, cs.data(), scale.data(), true);
            for (index_t r = 0; r < rows; ++r) {
                for (index_t j = 0; j < width; ++j) {
                    T sum = 0;
                    for (index_t k = 0; k < K; ++k) sum += value(r + 3, k) * value(k, j);
                    CHECK(c[static_cast<std::size_t>(r)][static_cast<std::size_t>(j)] ==
                          T(100) + static_cast<T>(r + 1) * sum);
                }
                CHECK(c[static_cast<std::size_t>(r)].back() == T(100));
            }
        }
    }
}

}  // namespace

TEST_CASE("tiles: every size of the product tile", "[kernel][tile]") {
    check_tables<float>();
    check_tables<double>();
}

namespace {

// What one row gets, with weight and accumulation, in a tile of `rows` rows.
template <class T>
std::vector<T> row_in_tile(index_t rows, index_t row, bool weighted, bool accumulate) {
    using arch = simd::default_arch;
    constexpr index_t W = kernel::panel_width<T>, K = 33;
    const auto value = [](index_t i) { return std::sin(static_cast<T>(i) * T(1.7)); };
    std::vector<T> b, scale, x, c(static_cast<std::size_t>(rows * W));
    for (index_t i = 0; i < K * W; ++i) b.push_back(value(i));
    std::vector<const T*> xs;
    std::vector<T*> cs;
    x.reserve(static_cast<std::size_t>(rows * K));
    for (index_t r = 0; r < rows; ++r) {
        // The row of interest has the same numbers in every tile.
        const index_t id = r == row ? 1000 : r;
        for (index_t k = 0; k < K; ++k) x.push_back(value(id * 7 + k));
        for (index_t j = 0; j < W; ++j) c[static_cast<std::size_t>(r * W + j)] = value(id * 5 + j);
        scale.push_back(value(id * 3 + 2));
        xs.push_back(x.data() + r * K);
        cs.push_back(c.data() + r * W);
    }
    kernel::tile_table<T, arch>::product(rows, kernel::panel_vectors<arch>, xs.data(), b.data(), W, K,
                                         cs.data(), weighted ? scale.data() : nullptr, accumulate);
    return {cs[static_cast<std::size_t>(row)], cs[static_cast<std::size_t>(row)] + W};
}

}  // namespace

TEMPLATE_TEST_CASE("tiles: a row gets the same bits in a tile of any size", "[kernel][tile]", float, double) {
    for (const bool weighted : {false, true}) {
        for (const bool accumulate : {false, true}) {
            const auto alone = row_in_tile<TestType>(1, 0, weighted, accumulate);
            for (index_t rows = 2; rows <= kernel::product_rows; ++rows) {
                for (index_t row = 0; row < rows; ++row)
                    CHECK(row_in_tile<TestType>(rows, row, weighted, accumulate) == alone);
            }
        }
    }
}
