#include <mox/kernel/panel_prefetch.hpp>

#include <vector>

#include "../support/catch.hpp"

using namespace mox;

TEST_CASE("panel_prefetch asks for any memory and any number of steps", "[kernel]") {
    const std::vector<std::byte> some(4096);
    for (const index_t steps : {1, 3, 64}) {
        kernel::panel_prefetch<simd::default_arch, 2> narrow(some.data(), steps);
        kernel::panel_prefetch<simd::default_arch, 1> nowhere(nullptr, steps);
        for (index_t i = 0; i < steps; ++i) {
            narrow.next();
            nowhere.next();
        }
    }
    CHECK(some.front() == std::byte{0});
}
