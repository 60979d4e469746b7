#include <mox/kernel/ffn_rows.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <mox/core/buffer.hpp>
#include <mox/core/random.hpp>
#include <mox/exec/thread_pool.hpp>
#include <mox/kernel/activation.hpp>
#include <mox/kernel/reference/ffn_rows.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;

namespace {

namespace plain = kernel::reference;

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
        std::vector<double> da(a.size()), du(a.size()), h(a.size());
        const double* const up = gated ? u.data() : nullptr;
        plain::gated_row<plain::silu>(a.data(), up, hidden, h.data());
        const double expected = plain::gated_backward_row<plain::silu>(
            a.data(), up, d.data(), hidden, g, da.data(), gated ? du.data() : nullptr);
        for (index_t j = 0; j < hidden; ++j) {
            const auto i = static_cast<std::size_t>(j);
            const auto got = [&](index_t part) {
                return static_cast<double>(pre[static_cast<std::size_t>(column(j, part))]);
            };
            CHECK(std::abs(static_cast<double>(dh[i]) - g * h[i]) < bound);
            CHECK(std::abs(got(0) - da[i]) < bound);
            if (gated) CHECK(std::abs(got(1) - du[i]) < bound);
        }
        CHECK(std::abs(static_cast<double>(dot) - expected) < 10 * bound);
        // No write behind the valid hidden units.
        CHECK(dh.back() == T(-50));
    }
}

}  // namespace

TEST_CASE("ffn rows: backward of one slot against its plain twin", "[kernel][ffn_rows]") {
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
    std::vector<double> expected(static_cast<std::size_t>(2 * L));
    plain::gated_row<plain::silu>(tile.data(), tile.data() + L, L, expected.data());
    for (std::size_t i = 0; i < static_cast<std::size_t>(L); ++i)
        CHECK(hidden[i] == Approx(expected[i]).epsilon(1e-14));
    CHECK(hidden[static_cast<std::size_t>(L)] == -50.0);
    kernel::plain_tile_row<double, arch, activation::silu>(tile.data(), 2 * L, hidden.data());
    plain::gated_row<plain::silu>(tile.data(), static_cast<const double*>(nullptr), 2 * L, expected.data());
    for (std::size_t i = 0; i < tile.size(); ++i) CHECK(hidden[i] == Approx(expected[i]).epsilon(1e-14));
    CHECK(hidden.back() == -50.0);
}

namespace {

// Pre-activations in panel order from plain ones, `hidden` units: gate units first in each panel.
template <class T>
void check_gated_rows(index_t rows, index_t hidden, executor_ref exec, double bound) {
    CAPTURE(rows, hidden);
    using arch = simd::default_arch;
    constexpr index_t L = simd::lanes<T>, half = kernel::panel_layout<T>::width / 2;
    const index_t columns = 2 * round_up(hidden, L), stride = round_up(hidden, 16);
    mox_test::guarded_rows<T> gate(rows, hidden, 1, 3), up(rows, hidden, 2);
    buffer<T> pre(rows * columns), ordinary(rows * stride + 16), past(rows * stride + 16);
    if (rows > 1 && hidden > 3) gate.view()(1, 3) = std::numeric_limits<T>::quiet_NaN();
    for (index_t t = 0; t < rows; ++t) {
        for (index_t j = 0; j < hidden; ++j) {
            const index_t base = j / half * half, units = std::min(half, round_up(hidden - base, L));
            T* panel = pre.data() + t * columns + 2 * base;
            panel[j - base] = gate.view()(t, j);
            panel[units + j - base] = up.view()(t, j);
        }
    }
    const matrix_view<const T> from(pre.data(), rows, columns);
    kernel::gated_rows<T, activation::silu>(exec, from,
                                            matrix_view<T>(ordinary.data(), rows, hidden, stride));
    kernel::detail::gated_rows_of<T, arch, activation::silu, true>(
        from, 0, rows, matrix_view<T>(past.data(), rows, hidden, stride));
    simd::stream_fence();
    std::vector<double> a(static_cast<std::size_t>(hidden)), u = a, expected = a;
    for (index_t t = 0; t < rows; ++t) {
        for (index_t j = 0; j < hidden; ++j) {
            a[static_cast<std::size_t>(j)] = gate(t, j);
            u[static_cast<std::size_t>(j)] = up(t, j);
        }
        plain::gated_row<plain::silu>(a.data(), u.data(), hidden, expected.data());
        double worst = 0;
        for (index_t j = 0; j < stride; ++j) {
            const T got = ordinary[t * stride + j], streamed = past[t * stride + j];
            if (t == 1 && j == 3 && hidden > 3) {
                CHECK(std::isnan(got));
                CHECK(std::isnan(streamed));
                continue;
            }
            if (got != streamed) worst = 1e9;
            const double want = j < hidden ? expected[static_cast<std::size_t>(j)] : 0;
            worst = std::max(worst, std::abs(static_cast<double>(got) - want));
        }
        CHECK(worst < bound);
    }
}

}  // namespace

TEST_CASE("ffn rows: the gate over rows, with both kinds of stores", "[kernel][ffn_rows]") {
    thread_pool pool(2);
    for (const executor_ref exec : {executor_ref(), executor_ref(pool)}) {
        for (const index_t rows : {index_t{0}, index_t{1}, index_t{130}}) {
            for (const index_t hidden : {index_t{1}, index_t{16}, index_t{37}, index_t{96}}) {
                check_gated_rows<float>(rows, hidden, exec, 2e-5);
                check_gated_rows<double>(rows, hidden, exec, 1e-13);
            }
        }
    }
}

namespace {

template <class T>
void check_apart(index_t hidden) {
    using arch = simd::default_arch;
    using layout = kernel::panel_layout<T>;
    CAPTURE(hidden);
    const auto size = static_cast<std::size_t>(hidden);
    std::vector<T> pre(static_cast<std::size_t>(layout::padded_gated(hidden)), T(0)), gate(size + 1, T(-50)),
        up(size + 1, T(-50));
    for (index_t j = 0; j < hidden; ++j) {
        pre[static_cast<std::size_t>(layout::gated_column(hidden, j, 0))] = static_cast<T>(j);
        pre[static_cast<std::size_t>(layout::gated_column(hidden, j, 1))] = static_cast<T>(1000 + j);
    }
    const std::vector<T> before = pre;
    kernel::split_gated_row<T, arch>(pre.data(), hidden, gate.data(), up.data());
    CHECK(pre == before);
    for (std::size_t j = 0; j < size; ++j) {
        CHECK(gate[j] == static_cast<T>(j));
        CHECK(up[j] == static_cast<T>(1000 + j));
    }
    CHECK(gate[size] == T(-50));
    CHECK(up[size] == T(-50));
    // What lies behind the units is not added to padding.
    gate[size] = up[size] = std::numeric_limits<T>::quiet_NaN();
    kernel::add_gated_row<T, arch>(gate.data(), up.data(), hidden, pre.data());
    for (std::size_t i = 0; i < pre.size(); ++i) CHECK(pre[i] == 2 * before[i]);
}

}  // namespace

TEST_CASE("gated rows: gate and up units apart and added, in panel order", "[kernel][ffn_rows]") {
    for (const index_t hidden : {1, 3, 8, 15, 16, 17, 31, 32, 33, 48, 70, 129}) {
        check_apart<float>(hidden);
        check_apart<double>(hidden);
    }
}
