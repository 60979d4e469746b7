#include <mox/kernel/packed_rows.hpp>

#include <mox/kernel/reference/packed.hpp>

#include "../support/catch.hpp"
#include "../support/formats.hpp"

using namespace mox;
using namespace mox_test;

namespace {

template <class F, class T>
void check_rows(index_t k) {
    const auto hard = hard_vectors(k, 11);
    const auto count = static_cast<index_t>(hard.size());
    std::vector<T> x;
    for (const auto& row : hard) x.insert(x.end(), row.begin(), row.end());
    arena memory;
    const auto rows = kernel::packed_rows<F, T>::take(memory, count, k);
    // Memory that was used before.
    std::fill_n(rows.codes, count * rows.stride, std::byte{0x5a});
    kernel::pack_rows<F, T>({}, matrix_view<const T>(x.data(), count, k), rows);
    for (index_t r = 0; r < count; ++r) {
        for (index_t i = 0; i < k; ++i) {
            const double got = kernel::reference::row_value<F>(rows(r).codes, i) * double(rows(r).scale);
            const double expected = hard[static_cast<std::size_t>(r)][static_cast<std::size_t>(i)];
            CAPTURE(F::name, k, r, i, got, expected);
            REQUIRE(std::abs(got - expected) <= row_bound<F>(hard[static_cast<std::size_t>(r)], i));
        }
        if constexpr (requires { F::padded_group; }) {
            for (index_t g = 0; g < F::groups(k); ++g) {
                int sum = 0;
                for (index_t i = g * F::group; i < std::min(k, (g + 1) * F::group); ++i)
                    sum += static_cast<int>(kernel::reference::row_value<F>(rows(r).codes, i));
                CHECK(rows(r).sums[g] == sum);
            }
        }
    }
}

}  // namespace

TEST_CASE("rows of activations keep the error they promise, also hard ones", "[kernel][packed]") {
    for_each_format([](auto format) {
        for (const index_t k : {1, 2, 3, 20, 64, 67, 130}) {
            check_rows<decltype(format), float>(k);
            check_rows<decltype(format), double>(k);
        }
    });
}

TEST_CASE("rows of activations that are not finite stay visible", "[kernel][packed]") {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), HUGE_VALF, -HUGE_VALF}) {
        std::vector<float> x = normal_numbers<float>(2 * 40, 3);
        x[57] = bad;
        for_each_format([&](auto format) {
            using F = decltype(format);
            arena memory;
            const auto rows = kernel::packed_rows<F, float>::take(memory, 2, 40);
            kernel::pack_rows<F, float>({}, matrix_view<const float>(x.data(), 2, 40), rows);
            CHECK(std::isfinite(kernel::reference::row_value<F>(rows(0).codes, 17) * double(rows(0).scale)));
            CHECK(!std::isfinite(kernel::reference::row_value<F>(rows(1).codes, 17) * double(rows(1).scale)));
        });
    }
}
