#include <mox/kernel/reference/dot.hpp>

#include <vector>

#include "../../support/catch.hpp"

using namespace mox;
namespace plain = kernel::reference;

TEST_CASE("plain dot products: by hand, with their gradients", "[kernel][reference]") {
    using numbers = std::vector<double>;
    const numbers x{1, 2, 3, 4, 5, 6}, w{1, 10, 100}, dout{2, -1};
    const matrix_view<const double> rows(x.data(), 2, 3);
    numbers out(2, 9.0), dx(6, 1.0), dw{1, 1, 1};
    plain::dot_rows<double>(rows, w.data(), out.data());
    CHECK(out == numbers{321, 654});
    plain::dot_rows_backward<double>(rows, w.data(), dout.data(), {dx.data(), 2, 3}, dw.data(), true);
    CHECK(dx == numbers{3, 21, 201, 0, -9, -99});
    CHECK(dw == numbers{-1, 0, 1});
    plain::dot_rows_backward<double>(rows, w.data(), dout.data(), {}, dw.data(), false);
    CHECK(dw == numbers{-2, -1, 0});
    plain::dot_rows_backward<double>(rows, w.data(), dout.data(), {dx.data(), 2, 3}, nullptr, false);
    CHECK(dx == numbers{5, 41, 401, -1, -19, -199});
    plain::dot_rows<double>({x.data(), 2, 0, 3}, w.data(), out.data());
    CHECK(out == numbers{0, 0});
}
