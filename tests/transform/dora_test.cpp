#include <mox/transform/dora.hpp>

#include <cmath>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using mox_test::random_params;

TEST_CASE("start_dora: every magnitude is the norm of its output's weights", "[transform][lora]") {
    constexpr adapter_spec rank2{.rank = 2, .alpha = 6};
    using net = stack<rms_norm<4>, repeat<2, dora<linear<4, 4>, rank2>>, linear<4, 3>>;
    auto w = random_params<net, double>(3);
    const auto last = w.read("2.weight");
    CHECK(start_dora(w) == 2);
    CHECK(w.read("2.weight") == last);
    for (const std::string layer : {"1.0.", "1.1."}) {
        const auto a = w.read(layer + "0.a"), b = w.read(layer + "0.b"),
                   base = w.read(layer + "0.0.0.weight"), m = w.read(layer + "magnitude");
        for (std::size_t o = 0; o < 4; ++o) {
            double square = 0;
            for (std::size_t i = 0; i < 4; ++i) {
                const double v = base[i * 4 + o] + 3 * (a[i] * b[o] + a[4 + i] * b[4 + o]);
                square += v * v;
            }
            CHECK(m[o] == Approx(std::sqrt(square)));
        }
    }
    CHECK(start_dora(w) == 2);
    params<linear<4, 3>, double> none;
    CHECK(start_dora(none) == 0);
}
