#include <mox/kernel/reference/gemm.hpp>

#include <vector>

#include "../../support/catch.hpp"

using namespace mox;
namespace plain = kernel::reference;

TEST_CASE("plain products: by hand, with chosen rows, factors and sums", "[kernel][reference]") {
    using numbers = std::vector<double>;
    const numbers x{1, 2, 3, 4}, w{1, 10, 100, 2, 20, 200}, scale{2, -1, 3};
    const matrix_view<const double> rows(x.data(), 2, 2), weights(w.data(), 2, 3);
    const std::vector<row_t> row{1, 0, 1};
    numbers y(9, 7.0);
    plain::product<double>(rows, row.data(), weights, scale.data(), {y.data(), 3, 3}, false);
    CHECK(y == numbers{22, 220, 2200, -5, -50, -500, 33, 330, 3300});
    plain::product<double>(rows, nullptr, weights, nullptr, {y.data(), 2, 3}, true);
    CHECK(y == numbers{27, 270, 2700, 6, 60, 600, 33, 330, 3300});

    const numbers dy{1, 0, 1, 0, 1, 0};
    const matrix_view<const double> d(dy.data(), 2, 3);
    numbers dx(4, 1.0), dw(6, 1.0);
    plain::product_transposed<double>(d, nullptr, weights, {dx.data(), 2, 2}, true);
    CHECK(dx == numbers{102, 203, 11, 21});
    const std::vector<row_t> swapped{1, 0};
    plain::product_transposed<double>(d, swapped.data(), weights, {dx.data(), 2, 2}, false);
    CHECK(dx == numbers{10, 20, 101, 202});
    plain::weight_gradient<double>(rows, nullptr, d, {dw.data(), 2, 3}, true);
    CHECK(dw == numbers{2, 4, 2, 3, 5, 3});
    plain::weight_gradient<double>(rows, swapped.data(), d, {dw.data(), 2, 3}, false);
    CHECK(dw == numbers{3, 1, 3, 4, 2, 4});
}

TEST_CASE("plain products: groups, one without tokens", "[kernel][reference]") {
    // Expert 0 doubles, expert 1 has nobody, expert 2 negates.
    using numbers = std::vector<double>;
    const numbers x{1, 2, 3}, weights{2, 50, -1}, gate{1, 0.5, 10};
    const std::vector<row_t> offsets{0, 2, 2, 3}, token{0, 2, 2};
    const matrix_view<const double> rows(x.data(), 3, 1);
    numbers slots{7, 7, 7}, y{100, 100, 100};
    const matrix_view<double> to(slots.data(), 3, 1);
    plain::grouped_product<double>(rows, token.data(), offsets.data(), 3, weights.data(), gate.data(), to,
                                   false);
    CHECK(slots == numbers{2, 3, -30});
    plain::add_to_tokens<double>(to, token.data(), {y.data(), 3, 1});
    CHECK(y == numbers{102, 100, 73});
    plain::grouped_product<double>(rows, nullptr, offsets.data(), 3, weights.data(), nullptr, to, true);
    CHECK(slots == numbers{4, 7, -33});

    // Inputs by two: experts add and take away.
    const numbers wide{1, 1, 0, 0, 1, -1};
    numbers d(6, 1.0);
    plain::grouped_transposed<double>(rows, token.data(), offsets.data(), 3, wide.data(), {d.data(), 3, 2},
                                      false);
    CHECK(d == numbers{1, 1, 3, 3, 3, -3});
    plain::grouped_transposed<double>(rows, nullptr, offsets.data(), 3, wide.data(), {d.data(), 3, 2}, true);
    CHECK(d == numbers{2, 2, 5, 5, 6, -6});
}
