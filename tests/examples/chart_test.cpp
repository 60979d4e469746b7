#include "../../examples/support/chart.hpp"

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

std::string draw(std::vector<support::curve> curves) {
    return support::chart_svg({"Title", "Caption.", std::move(curves)});
}

}  // namespace

TEST_CASE("chart: curves, names and final values are there", "[examples]") {
    std::vector<support::chart_point> points;
    for (int i = 0; i <= 20; ++i) points.push_back({i * 3.0, i * 1e11, 2.25 + 6 * std::exp(-i * 0.5)});
    const std::string svg = draw({{"dense", points}, {"experts", points}});
    CHECK(well_formed(svg));
    CHECK(has(svg, ">dense</text>"));
    CHECK(has(svg, "2.250 bits/byte"));
    CHECK(has(svg, "training time (s)"));
    CHECK(has(svg, "10\u00b9\u00b2 FLOPs"));
    CHECK(has(svg, "the steep start lies above this frame"));
    CHECK(svg == draw({{"dense", points}, {"experts", points}}));
}

TEST_CASE("chart: text is escaped", "[examples]") {
    const std::string evil = "<script>\"&'\x1b\xff</script>";
    const std::string svg = support::chart_svg({evil, evil, {{evil, {{1, 2, 3}}}}});
    CHECK(well_formed(svg));
    CHECK_FALSE(has(svg, "<script"));
    CHECK_FALSE(has(svg, "\x1b"));
    CHECK_FALSE(has(svg, "\xff"));
}

TEST_CASE("chart: degenerate data", "[examples]") {
    const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
    const double huge = std::numeric_limits<double>::max(), tiny = std::numeric_limits<double>::denorm_min();
    CHECK(has(draw({}), "no data"));
    CHECK(well_formed(draw({})));
    CHECK(well_formed(draw({{"", {}}})));
    CHECK(well_formed(draw({{"point", {{0, 0, 0}}}})));
    CHECK(well_formed(draw({{"equal", {{1, 1, 2}, {1, 1, 2}, {1, 1, 2}}}})));
    CHECK(well_formed(draw({{"negative", {{-1, -2, -3}, {-4, -5, -6}}}})));
    CHECK(well_formed(draw({{"ranges", {{1e-9, 1, 1e-3}, {1, 1e30, 1e12}}}})));
    CHECK(well_formed(draw({{"extreme", {{tiny, huge, tiny}, {1, 1, 1e149}, {tiny, tiny, tiny}}}})));
    CHECK(well_formed(draw({{"tiny", {{tiny, tiny, tiny}, {2 * tiny, tiny, 2 * tiny}}}})));
    const std::string svg = draw({{"dropped", {{nan, 1, 1}, {1, inf, 1}, {1, 1, -inf}, {7, 7, 7}}}});
    CHECK(well_formed(svg));
    CHECK(has(svg, "7.000 bits/byte"));
    CHECK_FALSE(has(svg, "<polyline stroke"));  // one usable point is no line
    std::vector<support::curve> many(40, {"a name that is long enough to be cut somewhere", {{1, 1, 1}}});
    CHECK(well_formed(draw(many)));
}

TEST_CASE("chart: ticks are round and inside the axis", "[examples]") {
    for (const double high : {1e-300, 1e-7, 0.3, 1.0, 7.3, 61.0, 999.0, 1.9e12, 1e100}) {
        const auto a = support::axis::from_zero(0, high);
        CAPTURE(high);
        CHECK(a.ticks().size() >= 3);
        CHECK(a.ticks().size() <= 9);
        CHECK(a.position(a.ticks().back()) <= 1 + 1e-9);
        CHECK(a.label(a.ticks()[1]).size() <= 6);
    }
    CHECK(support::axis::from_zero(0, 61).label(20) == "20");
    CHECK(support::axis::from_zero(0, 1.9e12).label(5e11) == "0.5");
}

TEST_CASE("chart: labels keep their distance and their order", "[examples]") {
    const auto places = support::spread({50, 51, 49, 100, 0}, 10, 0, 100);
    CHECK(places[2] < places[0]);
    CHECK(places[0] < places[1]);
    CHECK(places[0] - places[2] >= 10 - 1e-9);
    CHECK(places[1] - places[0] >= 10 - 1e-9);
    CHECK(places[3] <= 100);
    const auto crowded = support::spread(std::vector<double>(50, 99), 10, 0, 100);
    for (const double p : crowded) CHECK((p >= -1e-9 && p <= 100 + 1e-9));
    CHECK(support::spread({}, 10, 0, 100).empty());
}
