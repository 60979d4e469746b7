#include <mox/train/block_schedule.hpp>

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "../support/catch.hpp"

namespace {

using Catch::Matchers::Contains;
using mox::index_t;

std::vector<index_t> at(mox::block_schedule& s, index_t step) {
    const auto drawn = s(step);
    return {drawn.begin(), drawn.end()};
}

// How likely each block is to be among `active` drawn one after the other, by enumeration.
void add_inclusion(std::vector<double> left, index_t active, double probability, std::vector<double>& to) {
    if (active == 0) return;
    double sum = 0;
    for (const double p : left) sum += p;
    for (std::size_t b = 0; b < left.size(); ++b) {
        if (left[b] == 0) continue;
        const double here = probability * left[b] / sum;
        to[b] += here;
        auto rest = left;
        rest[b] = 0;
        add_inclusion(rest, active - 1, here, to);
    }
}

std::vector<double> frequencies(mox::block_schedule& s, index_t intervals) {
    std::vector<double> f(static_cast<std::size_t>(s.blocks()));
    for (index_t i = 0; i < intervals; ++i) {
        for (const index_t b : s(i * s.interval())) f[static_cast<std::size_t>(b)] += 1;
    }
    for (double& x : f) x /= static_cast<double>(intervals);
    return f;
}

}  // namespace

TEST_CASE("exactly the wanted number of different blocks, the same for a whole interval",
          "[train][block_schedule]") {
    auto s = mox::schedule::lisa(7, {.active = 3, .interval = 5}, 11);
    std::set<std::vector<index_t>> seen;
    for (index_t step = 0; step < 200; ++step) {
        const auto drawn = at(s, step);
        REQUIRE(drawn.size() == 3);
        REQUIRE(std::set<index_t>(drawn.begin(), drawn.end()).size() == 3);
        REQUIRE(drawn.front() >= 0);
        REQUIRE(drawn.back() < 7);
        REQUIRE(std::is_sorted(drawn.begin(), drawn.end()));
        REQUIRE(drawn == at(s, step / 5 * 5));
        seen.insert(drawn);
    }
    REQUIRE(seen.size() > 15);  // of 35 possible ones in 40 draws
}

TEST_CASE("the blocks of a step depend on seed and step only", "[train][block_schedule]") {
    auto forwards = mox::schedule::lisa(9, {.active = 4, .interval = 3}, 5);
    auto backwards = mox::schedule::lisa(9, {.active = 4, .interval = 3}, 5);
    auto other = mox::schedule::lisa(9, {.active = 4, .interval = 3}, 6);
    std::vector<std::vector<index_t>> drawn;
    for (index_t step = 0; step < 60; ++step) drawn.push_back(at(forwards, step));
    index_t different = 0;
    for (index_t step = 60; step-- > 0;) {
        REQUIRE(at(backwards, step) == drawn[static_cast<std::size_t>(step)]);
        different += at(other, step) != drawn[static_cast<std::size_t>(step)] ? 1 : 0;
    }
    REQUIRE(different > 45);
}

TEST_CASE("how often blocks are drawn: LISA all alike, one of OwLore's by its probabilities",
          "[train][block_schedule]") {
    const index_t draws = 20000;
    // Four standard deviations of a frequency are 0.0142.
    auto lisa = mox::schedule::lisa(6, {.active = 2, .interval = 20}, 3);
    for (const double f : frequencies(lisa, draws)) REQUIRE(f == Approx(2.0 / 6).margin(0.0142));

    const std::vector<double> p{0.4, 0.05, 0.25, 0.0, 0.3};
    auto one = mox::schedule::owlore(5, p, {.active = 1, .interval = 2}, 3);
    const auto f = frequencies(one, draws);
    for (std::size_t b = 0; b < p.size(); ++b) REQUIRE(f[b] == Approx(p[b]).margin(0.0142));
    REQUIRE(f[3] == 0.0);

    std::vector<double> want(5);
    add_inclusion(p, 3, 1, want);
    auto three = mox::schedule::owlore(5, p, {.active = 3, .interval = 2}, 3);
    const auto g = frequencies(three, draws);
    for (std::size_t b = 0; b < p.size(); ++b) REQUIRE(g[b] == Approx(want[b]).margin(0.0142));
    REQUIRE(g[3] == 0.0);
}

TEST_CASE("all blocks, and all of those that can be drawn", "[train][block_schedule]") {
    auto all = mox::schedule::lisa(3, {.active = 3, .interval = 1}, 1);
    auto two = mox::schedule::owlore(3, std::vector<double>{2.0, 0.0, 6.0}, {.active = 2, .interval = 1}, 1);
    REQUIRE(two.probabilities()[2] == 0.75);
    for (index_t step = 0; step < 20; ++step) {
        REQUIRE(at(all, step) == std::vector<index_t>{0, 1, 2});
        REQUIRE(at(two, step) == std::vector<index_t>{0, 2});
    }
}

TEST_CASE("schedules say what is wrong", "[train][block_schedule][error]") {
    using mox::schedule::lisa;
    using mox::schedule::owlore;
    REQUIRE_THROWS_WITH(lisa(0), Contains("mox::schedule::lisa: argument 'blocks' must be positive"));
    REQUIRE_THROWS_WITH(lisa(4, {.active = 0}), Contains("between 1 and the number of blocks, 4, got 0"));
    REQUIRE_THROWS_WITH(lisa(4, {.active = 5}), Contains("between 1 and the number of blocks, 4, got 5"));
    REQUIRE_THROWS_WITH(lisa(4, {.active = 2, .interval = 0}), Contains("'interval' must be at least one"));
    const mox::schedule::block_options two{.active = 2, .interval = 3};
    using numbers = std::vector<double>;
    REQUIRE_THROWS_WITH(owlore(3, numbers{1, 2}, two),
                        Contains("'probabilities' must have 3 elements (one per block), got 2"));
    REQUIRE_THROWS_WITH(owlore(3, numbers{1, -2, 3}, two), Contains("that are not negative"));
    REQUIRE_THROWS_WITH(owlore(3, numbers{1, NAN, 3}, two), Contains("finite numbers"));
    REQUIRE_THROWS_WITH(owlore(3, numbers{0, 0, 0}, two), Contains("a number above zero"));
    REQUIRE_THROWS_WITH(owlore(3, numbers{1e308, 1e308, 0}, two), Contains("must have a finite sum"));
    // A share so small that it is none.
    REQUIRE_THROWS_WITH(owlore(3, numbers{1e300, 1e-300, 0}, two), Contains("above zero, 1"));
    REQUIRE_THROWS_WITH(owlore(3, numbers{0, 4, 0}, two), Contains("whose probability is above zero, 1"));
    auto s = lisa(4);
    REQUIRE_THROWS_WITH(s(-1), Contains("'step' must not be negative"));
}

TEST_CASE("blocks and steps that nobody states are the papers'", "[train][block_schedule]") {
    auto lisa = mox::schedule::lisa(32);
    REQUIRE(at(lisa, 0).size() == 2);
    REQUIRE(lisa.interval() == 20);
    auto owlore = mox::schedule::owlore(32, std::vector<double>(32, 1.0));
    REQUIRE(at(owlore, 0).size() == 5);
    REQUIRE(owlore.interval() == 50);
}
