#include <mox/kernel/reference/ffn_rows.hpp>

#include <vector>

#include "../../support/catch.hpp"

namespace plain = mox::kernel::reference;

TEST_CASE("plain gated rows: by hand, with up units and without", "[kernel][reference]") {
    using numbers = std::vector<double>;
    const numbers gate{3, -1, 2}, up{5, 7, 11}, dh{1, 1, 10};
    numbers hidden(3), dgate(3), dup(3);
    plain::gated_row<plain::relu_squared>(gate.data(), up.data(), 3, hidden.data());
    CHECK(hidden == numbers{45, 0, 44});
    CHECK(plain::gated_backward_row<plain::relu_squared>(gate.data(), up.data(), dh.data(), 3, 0.5,
                                                         dgate.data(), dup.data()) == 45 + 440);
    CHECK(dgate == numbers{15, 0, 220});
    CHECK(dup == numbers{4.5, 0, 20});
    const double* const none = nullptr;
    plain::gated_row<plain::relu_squared>(gate.data(), none, 3, hidden.data());
    CHECK(hidden == numbers{9, 0, 4});
    double* const nowhere = nullptr;
    CHECK(plain::gated_backward_row<plain::relu_squared>(gate.data(), none, dh.data(), 3, 0.5, dgate.data(),
                                                         nowhere) == 9 + 40);
    CHECK(dgate == numbers{3, 0, 20});
}
