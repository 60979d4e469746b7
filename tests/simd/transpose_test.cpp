#include <mox/simd/transpose.hpp>

#include <vector>

#include "../support/catch.hpp"

using namespace mox;

namespace {

template <class T>
void check(index_t count) {
    constexpr index_t L = simd::lanes<T>;
    const index_t stride = count + 3;
    std::vector<T> rows, columns(static_cast<std::size_t>(count * L + 1), T(-1));
    for (index_t i = 0; i < L * stride; ++i) rows.push_back(static_cast<T>(i));
    simd::transpose_lanes<T>(rows.data(), stride, count, columns.data());
    for (index_t j = 0; j < count; ++j) {
        for (index_t i = 0; i < L; ++i)
            REQUIRE(columns[static_cast<std::size_t>(j * L + i)] ==
                    rows[static_cast<std::size_t>(i * stride + j)]);
    }
    CHECK(columns.back() == T(-1));

    // Columns further apart: what lies between them stays.
    const index_t pitch = 2 * L;
    std::vector<T> apart(static_cast<std::size_t>(count * pitch), T(-1));
    simd::transpose_lanes<T>(rows.data(), stride, count, apart.data(), pitch);
    for (index_t j = 0; j < count; ++j) {
        for (index_t i = 0; i < pitch; ++i)
            REQUIRE(apart[static_cast<std::size_t>(j * pitch + i)] ==
                    (i < L ? rows[static_cast<std::size_t>(i * stride + j)] : T(-1)));
    }
}

// Fewer rows than lanes: the lanes behind them are zero, and nothing behind the rows is read.
template <class T>
void check_upto(index_t here, index_t count) {
    constexpr index_t L = simd::lanes<T>;
    const index_t stride = count + 1, pitch = L + 2;
    std::vector<T> rows, columns(static_cast<std::size_t>(count * pitch), T(-1));
    for (index_t i = 0; i < here * stride; ++i) rows.push_back(static_cast<T>(i + 1));
    simd::transpose_upto<T>(rows.data(), stride, here, count, columns.data(), pitch);
    for (index_t j = 0; j < count; ++j) {
        for (index_t i = 0; i < pitch; ++i)
            REQUIRE(columns[static_cast<std::size_t>(j * pitch + i)] ==
                    (i >= L      ? T(-1)
                     : i >= here ? T(0)
                                 : rows[static_cast<std::size_t>(i * stride + j)]));
    }
}

// Any number of rows from a 128-bit lane to a whole register.
template <class T, index_t Rows>
void check_rows() {
    constexpr index_t L = simd::lanes<T>, stride = L + 5, pitch = Rows + 2;
    using turning = simd::turning<T, simd::default_arch, Rows>;
    std::vector<T> rows, columns(static_cast<std::size_t>(L * pitch), T(-1));
    for (index_t i = 0; i < Rows * stride; ++i) rows.push_back(static_cast<T>(i));
    turning square;
    square.load(rows.data(), stride);
    [&]<int... Step>(std::integer_sequence<int, Step...>) { (square.template step<Step>(), ...); }
    (std::make_integer_sequence<int, turning::steps>{});
    square.store(columns.data(), pitch);
    for (index_t j = 0; j < L; ++j) {
        for (index_t i = 0; i < pitch; ++i)
            REQUIRE(columns[static_cast<std::size_t>(j * pitch + i)] ==
                    (i < Rows ? rows[static_cast<std::size_t>(i * stride + j)] : T(-1)));
    }
    if constexpr (2 * Rows <= L) check_rows<T, 2 * Rows>();
}

}  // namespace

TEST_CASE("transpose: as many rows as lanes, any number of columns", "[simd]") {
    for (index_t count : {0, 1, 3, 4, 8, 16, 17, 33, 64}) {
        check<float>(count);
        check<double>(count);
    }
}

TEST_CASE("transpose: rows that do not fill the lanes", "[simd]") {
    for (index_t here = 0; here <= simd::lanes<float>; ++here) check_upto<float>(here, 17);
    for (index_t here = 0; here <= simd::lanes<double>; ++here) check_upto<double>(here, 9);
}

TEST_CASE("transpose: fewer rows than lanes, step by step", "[simd]") {
    check_rows<float, 4>();
    check_rows<double, 2>();
}
