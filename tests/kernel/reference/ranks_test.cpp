#include <mox/kernel/reference/ranks.hpp>

#include <vector>

#include "../../support/catch.hpp"

using namespace mox;
namespace plain = kernel::reference;

TEST_CASE("plain chosen rows: by hand, with places nobody chose", "[kernel][reference]") {
    using numbers = std::vector<double>;
    // Two tokens of two columns, three rows, two choices each; the second token chooses one row twice.
    const std::vector<row_t> chosen{2, -1, 0, 0};
    const numbers b{1, 2, 30, 40, 5, 6}, weight{10, 99, 2, 3}, x{1, -1, 4, 2};
    const matrix_view<const double> rows(b.data(), 3, 2), tokens(x.data(), 2, 2);
    numbers y{100, 200, 300, 400}, out(4, 9.0), db(6, 7.0);
    plain::add_chosen_rows<double>(chosen.data(), weight.data(), 2, rows, {y.data(), 2, 2});
    CHECK(y == numbers{150, 260, 305, 410});
    plain::dot_chosen_rows<double>(tokens, chosen.data(), 2, rows, out.data());
    CHECK(out == numbers{-1, 0, 8, 8});
    plain::chosen_rows_gradient<double>(chosen.data(), weight.data(), 2, tokens, {db.data(), 3, 2}, false);
    CHECK(db == numbers{20, 10, 0, 0, 10, -10});
    plain::chosen_rows_gradient<double>(chosen.data(), weight.data(), 2, tokens, {db.data(), 3, 2}, true);
    CHECK(db == numbers{40, 20, 0, 0, 20, -20});
}
