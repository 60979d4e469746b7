#include <mox/layer/sequences.hpp>

#include <vector>

#include "../support/catch.hpp"

using namespace mox;

TEST_CASE("batch: ragged sequences, offsets and positions", "[layer][sequences]") {
    const batch b = batch::ragged({2, 0, 3, 1});
    const sequence_view v = b.view();
    CHECK(b.rows() == 6);
    CHECK(b.sequences() == 4);
    CHECK(v.rows() == 6);
    CHECK(v.sequences == 4);
    CHECK(std::vector<row_t>(v.offsets, v.offsets + 5) == std::vector<row_t>{0, 2, 2, 5, 6});
    CHECK(std::vector<row_t>(v.positions, v.positions + 6) == std::vector<row_t>{0, 1, 0, 1, 2, 0});
    CHECK(v.begin(2) == 2);
    CHECK(v.length(1) == 0);
    CHECK(v.length(2) == 3);
    CHECK(v.longest() == 3);
    CHECK(v.token == nullptr);
    CHECK(v.token_of(4) == 4);
}

TEST_CASE("batch: equal sequences and none at all", "[layer][sequences]") {
    const batch b = batch::equal(2, 3);
    const sequence_view v = b.view();
    CHECK(std::vector<row_t>(v.offsets, v.offsets + 3) == std::vector<row_t>{0, 3, 6});
    CHECK(std::vector<row_t>(v.positions, v.positions + 6) == std::vector<row_t>{0, 1, 2, 0, 1, 2});
    CHECK(batch().rows() == 0);
    CHECK(batch().sequences() == 0);
    CHECK(batch().view().rows() == 0);
    CHECK(batch::equal(0, 5).rows() == 0);
    CHECK(batch::equal(5, 0).rows() == 0);
    CHECK(batch::equal(5, 0).sequences() == 5);
    CHECK(batch::equal(5, 0).view().longest() == 0);
    CHECK_THROWS_AS(batch::equal(-1, 2), error);
    CHECK_THROWS_AS(batch::equal(1, -2), error);
    CHECK_THROWS_AS(batch::ragged({1, -1}), error);
}

TEST_CASE("batch: assigning again forgets what was", "[layer][sequences]") {
    batch b = batch::ragged({7, 2});
    b.assign_equal(1, 4);
    CHECK(b.rows() == 4);
    CHECK(b.sequences() == 1);
    CHECK(b.view().positions[3] == 3);
}

TEST_CASE("batch: rows of a gathered batch know their place", "[layer][sequences]") {
    const row_t offsets[] = {0, 2}, positions[] = {1, 5}, token[] = {3, 9};
    const sequence_view v{offsets, 1, positions, token};
    CHECK(v.token_of(0) == 3);
    CHECK(v.token_of(1) == 9);
}
