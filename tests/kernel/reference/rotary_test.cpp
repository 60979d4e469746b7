#include <mox/kernel/reference/rotary.hpp>

#include <cmath>
#include <numbers>
#include <vector>

#include "../../support/catch.hpp"

using namespace mox;
namespace plain = kernel::reference;

TEST_CASE("plain rotary: quarter turns by hand, both conventions, and back", "[kernel][reference]") {
    // Base (pi / 2)^-2 turns pair 0 by the position and pair 1 by a quarter turn per position.
    const double base = std::pow(std::numbers::pi / 2, -2.0);
    const std::vector<row_t> positions{0, 2};
    const std::vector<double> start{1, 2, 3, 4, 1, 2, 3, 4};
    const double c = std::cos(2.0), s = std::sin(2.0);
    for (const bool split : {true, false}) {
        const auto pairs = split ? kernel::rotary_pairs::half_split : kernel::rotary_pairs::interleaved;
        std::vector<double> x = start;
        plain::rotate_rows<double>({x.data(), 2, 4}, 1, 4, positions.data(), base, pairs, false);
        // Position 0 stays; position 2 turns the second pair by a half.
        const std::vector<double> want = split ? std::vector<double>{c - 3 * s, -2, 3 * c + s, -4}
                                               : std::vector<double>{c - 2 * s, 2 * c + s, -3, -4};
        for (std::size_t j = 0; j < 4; ++j) {
            CHECK(x[j] == start[j]);
            CHECK(x[4 + j] == Approx(want[j]).epsilon(1e-14));
        }
        plain::rotate_rows<double>({x.data(), 2, 4}, 1, 4, positions.data(), base, pairs, true);
        for (std::size_t j = 0; j < 8; ++j) CHECK(x[j] == Approx(start[j]).epsilon(1e-14));
    }
}
