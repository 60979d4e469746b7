#include <mox/kernel/tile.hpp>

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
