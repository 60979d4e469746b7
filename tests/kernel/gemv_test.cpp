#include <mox/kernel/gemv.hpp>

#include <vector>

#include <mox/kernel/tile.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

using namespace mox;

TEST_CASE("stream_panel computes what tile_product does, bit for bit", "[kernel]") {
    const auto check = [](auto zero) {
        using T = decltype(zero);
        using arch = simd::default_arch;
        constexpr index_t L = simd::lanes<T>, most = kernel::panel_vectors<>;
        for (const index_t k : {1, 2, 7, 64, 129}) {
            for (index_t v = 1; v <= most; ++v) {
                const auto w = values::normal<T>(k, v * L, 3), x = values::normal<T>(1, k, 4);
                for (const bool accumulate : {false, true}) {
                    for (const bool scaled : {false, true}) {
                        const T factor = T(0.37);
                        std::vector<T> expected(static_cast<std::size_t>(v * L), T(2)), got = expected,
                                                                                        ahead = expected;
                        const T* rows[1] = {x.data()};
                        const T* scale = scaled ? &factor : nullptr;
                        T* to[1] = {expected.data()};
                        kernel::tile_table<T, arch>::product(1, v, rows, w.data(), v * L, k, to, scale,
                                                             accumulate);
                        to[0] = got.data();
                        kernel::stream_panel<T, arch>(v, rows, w.data(), k, to, scale, accumulate, nullptr);
                        to[0] = ahead.data();
                        kernel::stream_panel<T, arch>(v, rows, w.data(), k, to, scale, accumulate, w.data());
                        CHECK(got == expected);
                        CHECK(ahead == expected);
                    }
                }
            }
        }
    };
    check(0.0f);
    check(0.0);
}
