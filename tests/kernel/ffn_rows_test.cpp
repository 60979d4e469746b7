#include <mox/kernel/ffn_rows.hpp>

#include <cmath>
#include <vector>

#include <mox/core/random.hpp>
#include <mox/kernel/activation.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

double silu(double a) { return a / (1 + std::exp(-a)); }
double silu_slope(double a) {
    const double s = 1 / (1 + std::exp(-a));
    return s * (1 + a * (1 - s));
}

template <class T>
void check_rows(index_t hidden, double bound) {
    using arch = simd::default_arch;
    using layout = kernel::panel_layout<T>;
    CAPTURE(hidden);
    const random_stream numbers(static_cast<std::uint64_t>(hidden), 3);
    const double g = 0.75;
    std::vector<double> a, u, d;
    for (index_t j = 0; j < hidden; ++j) {
        a.push_back(static_cast<double>(static_cast<T>(numbers.normal(static_cast<std::uint64_t>(3 * j)))));
        u.push_back(
            static_cast<double>(static_cast<T>(numbers.normal(static_cast<std::uint64_t>(3 * j + 1)))));
        d.push_back(
            static_cast<double>(static_cast<T>(numbers.normal(static_cast<std::uint64_t>(3 * j + 2)))));
    }
    for (const bool gated : {true, false}) {
        const auto column = [&](index_t j, index_t part) {
            return gated ? layout::gated_column(hidden, j, part) : j;
        };
        const index_t padded = gated ? layout::padded_gated(hidden) : layout::padded(hidden);
        std::vector<T> pre(static_cast<std::size_t>(padded), T(0)),
            dh(static_cast<std::size_t>(hidden) + 1, T(-50));
        for (index_t j = 0; j < hidden; ++j) {
            const auto i = static_cast<std::size_t>(j);
            pre[static_cast<std::size_t>(column(j, 0))] = static_cast<T>(a[i]);
            if (gated) pre[static_cast<std::size_t>(column(j, 1))] = static_cast<T>(u[i]);
            dh[i] = static_cast<T>(d[i]);
        }
        const T dot = gated ? kernel::gated_backward_row<T, arch, activation::silu>(pre.data(), dh.data(),
                                                                                    hidden, static_cast<T>(g))
                            : kernel::plain_backward_row<T, arch, activation::silu>(
                                  pre.data(), dh.data(), hidden, static_cast<T>(g));
        double expected = 0;
        for (index_t j = 0; j < hidden; ++j) {
            const auto i = static_cast<std::size_t>(j);
            const double up = gated ? u[i] : 1, h = silu(a[i]) * up;
            expected += d[i] * h;
            CHECK(std::abs(static_cast<double>(dh[i]) - g * h) < bound);
            CHECK(std::abs(static_cast<double>(pre[static_cast<std::size_t>(column(j, 0))]) -
                           g * d[i] * up * silu_slope(a[i])) < bound);
            if (gated)
                CHECK(std::abs(static_cast<double>(pre[static_cast<std::size_t>(column(j, 1))]) -
                               g * d[i] * silu(a[i])) < bound);
        }
        CHECK(std::abs(static_cast<double>(dot) - expected) < 10 * bound);
        // No write behind the valid hidden units.
        CHECK(dh.back() == T(-50));
    }
}

}  // namespace

TEST_CASE("ffn rows: backward of one slot against plain loops", "[kernel][ffn_rows]") {
    for (const index_t hidden :
         {index_t{1}, index_t{7}, index_t{16}, index_t{33}, index_t{64}, index_t{75}}) {
        check_rows<double>(hidden, 1e-13);
        check_rows<float>(hidden, 5e-6);
    }
}

TEST_CASE("ffn rows: forward of one tile row", "[kernel][ffn_rows]") {
    using arch = simd::default_arch;
    constexpr index_t L = simd::lanes<double>;
    std::vector<double> tile, hidden(static_cast<std::size_t>(2 * L) + 1, -50.0);
    for (index_t j = 0; j < 2 * L; ++j) tile.push_back(0.3 * static_cast<double>(j) - 1);
    kernel::gated_tile_row<double, arch, activation::silu>(tile.data(), 2 * L, hidden.data());
    for (index_t j = 0; j < L; ++j) {
        const auto i = static_cast<std::size_t>(j);
        CHECK(hidden[i] == Approx(silu(tile[i]) * tile[i + static_cast<std::size_t>(L)]).epsilon(1e-14));
    }
    CHECK(hidden[static_cast<std::size_t>(L)] == -50.0);
    kernel::plain_tile_row<double, arch, activation::silu>(tile.data(), 2 * L, hidden.data());
    for (std::size_t i = 0; i < tile.size(); ++i) CHECK(hidden[i] == Approx(silu(tile[i])).epsilon(1e-14));
    CHECK(hidden.back() == -50.0);
}
