#include "../../examples/support/heat_map.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "../support/catch.hpp"
#include "../support/svg.hpp"

namespace {

using mox_test::has;
using mox_test::well_formed;

support::heat_map two_texts(std::vector<std::vector<double>> rows) {
    support::heat_map map;
    map.title = "Title";
    map.caption = {"First line.", "Second line."};
    map.rows = {"prose", "code"};
    map.unit = "share of choices";
    map.panels = {{"MoLA", "a note", "expert", {{"block 1", {{"queries", std::move(rows)}}}}}};
    return map;
}

std::size_t count(std::string_view text, std::string_view part) {
    std::size_t n = 0;
    for (std::size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, at + 1)) ++n;
    return n;
}

// Cells drawn in one of the nine colours; the legend has one of each.
std::size_t cells(const std::string& svg, std::size_t level) {
    const std::string begin =
        "<path stroke=\"" + std::string(support::detail::heat_writer::colour(level)) + "\"";
    const std::size_t at = svg.find(begin);
    if (at == std::string::npos) return 0;
    return count(std::string_view(svg).substr(at, svg.find('>', at) - at), "M");
}

}  // namespace

TEST_CASE("heat map: every value is a cell of its colour, with words around it", "[examples]") {
    const std::string svg = support::heat_map_svg(two_texts({{0, 1, 2, 0.5}, {0, 3, 1, 1}}));
    CHECK(well_formed(svg));
    CHECK(cells(svg, 0) == 2);
    CHECK(cells(svg, 2) == 1);
    CHECK(cells(svg, 4) == 3);
    CHECK(cells(svg, 8) == 2);  // 2 and everything above
    for (const char* word :
         {">Title</text>", ">First line.</text>", ">Second line.</text>", ">prose</text>", ">code</text>",
          ">MoLA</text>", ">a note</text>", ">block 1</text>", ">queries</text>", ">expert 1</text>",
          ">4</text>", ">share of choices</text>", ">2 or more</text>"}) {
        CAPTURE(word);
        CHECK(has(svg, word));
    }
    CHECK(svg == support::heat_map_svg(two_texts({{0, 1, 2, 0.5}, {0, 3, 1, 1}})));
}

TEST_CASE("heat map: darker is more", "[examples]") {
    using writer = support::detail::heat_writer;
    std::size_t before = 0;
    for (int i = 0; i <= 24; ++i) {
        const std::size_t l = writer::level(i / 8.0 - 0.5);
        CHECK(l >= before);
        before = l;
    }
    CHECK(writer::level(1) == 4);
    const auto red = [](std::size_t l) {
        return std::stoi(std::string(writer::colour(l).substr(1, 2)), nullptr, 16);
    };
    for (std::size_t l = 1; l < 9; ++l) CHECK(red(l) < red(l - 1));
}

TEST_CASE("heat map: columns keep their places, also in many of them", "[examples]") {
    for (const std::size_t columns : {std::size_t{1}, std::size_t{3}, std::size_t{32}, std::size_t{126}}) {
        const std::string svg = support::heat_map_svg(
            two_texts({std::vector<double>(columns, 1), std::vector<double>(columns, 1)}));
        CAPTURE(columns);
        REQUIRE(cells(svg, 4) == 2 * columns);
        // The last cell begins inside its strip, a quarter of what is right of the labels.
        const std::size_t at = svg.rfind('M', svg.find("\"/>", svg.find("<path stroke")));
        const double x = std::stod(svg.substr(at + 1));
        CHECK(x >= 186);
        CHECK(x < 186 + 254);
    }
}

TEST_CASE("heat map: text is escaped", "[examples]") {
    const std::string evil = "<script>\"&'\x1b\xff</script>";
    support::heat_map map{evil, {evil}, {evil}, evil, {{evil, evil, evil, {{evil, {{evil, {{1}}}}}}}}};
    const std::string svg = support::heat_map_svg(map);
    CHECK(well_formed(svg));
    CHECK_FALSE(has(svg, "<script"));
    CHECK_FALSE(has(svg, "\x1b"));
    CHECK_FALSE(has(svg, "\xff"));
}

TEST_CASE("heat map: degenerate data", "[examples]") {
    const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
    CHECK(has(support::heat_map_svg({}), "no data"));
    CHECK(well_formed(support::heat_map_svg({})));
    CHECK(well_formed(support::heat_map_svg(two_texts({}))));
    CHECK(well_formed(support::heat_map_svg(two_texts({{}, {}}))));
    CHECK(well_formed(support::heat_map_svg(two_texts({{1, 2}, {1}, {0, 0, 0}, {1}}))));
    support::heat_map bare = two_texts({});
    bare.panels[0].layers.clear();
    CHECK(has(support::heat_map_svg(bare), "no data"));
    const std::string svg = support::heat_map_svg(two_texts({{nan, inf, -inf, 1}, {-1, 1e300, 0, 1}}));
    CHECK(well_formed(svg));
    CHECK(cells(svg, 4) == 2);
    CHECK(cells(svg, 0) == 2);
    CHECK(cells(svg, 8) == 1);
}
