#include <mox/train/block_schedule.hpp>

#include <set>
#include <vector>

#include <mox/train/owlore.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

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
    REQUIRE_THROWS_WITH(owlore(3, numbers{0, 4, 0}, two), Contains("whose probability is above zero, 1"));
    auto s = lisa(4);
    REQUIRE_THROWS_WITH(s(-1), Contains("'step' must not be negative"));
}

TEST_CASE("OwLore's probabilities in every mode", "[train][owlore]") {
    using mode = mox::owlore_mode;
    const std::vector<double> d{3, 1, 4, 0};
    const auto p = [&](mode m) { return mox::owlore_probabilities(m, d); };
    REQUIRE(p(mode::uniform) == std::vector<double>{0.25, 0.25, 0.25, 0.25});
    REQUIRE(p(mode::owl) == std::vector<double>{0.375, 0.125, 0.5, 0});
    REQUIRE(p(mode::norm) == p(mode::owl));
    REQUIRE(p(mode::owl_reverse) == std::vector<double>{0.125, 0.375, 0, 0.5});
    REQUIRE(p(mode::increase) == std::vector<double>{0.1, 0.2, 3.0 / 10, 0.4});
    REQUIRE(p(mode::decrease) == std::vector<double>{0.4, 3.0 / 10, 0.2, 0.1});

    const std::vector<double> none, zeros(3), same(3, 2.0), negative{1, -1};
    REQUIRE_THROWS_WITH(mox::owlore_probabilities(mode::uniform, none), Contains("one element per block"));
    REQUIRE_THROWS_WITH(mox::owlore_probabilities(mode::owl, zeros), Contains("a number above zero"));
    REQUIRE_THROWS_WITH(mox::owlore_probabilities(mode::norm, negative), Contains("not negative"));
    REQUIRE_THROWS_WITH(mox::owlore_probabilities(mode::owl_reverse, same), Contains("must not be the same"));
}

TEST_CASE("the share of outliers counts weights times the size of their input", "[train][owlore]") {
    // Two batches of two inputs: sizes 5 and 13.
    mox::activation_norms sizes(2);
    std::vector<float> first{3, 5}, second{4, -12};
    sizes.add(mox::matrix_view<const float>{first.data(), 1, 2});
    sizes.add(mox::matrix_view<float>{second.data(), 1, 2});
    REQUIRE(sizes.norms() == std::vector<double>{5, 13});

    // |W| ||X||: 5 10 0 and 13 0 52, then 2 and 8; the mean is 11.25.
    const std::vector<double> w{1, -2, 0, 1, 0, -4}, v{1, -4}, in = sizes.norms(), one{2};
    const std::vector<mox::weighed_map<double>> maps{{w, in}, {v, one}};
    const std::span<const mox::weighed_map<double>> all(maps);
    REQUIRE(mox::outlier_share(all, 4.0) == 1.0 / 8);
    REQUIRE(mox::outlier_share(all, 1.0) == 2.0 / 8);
    REQUIRE(mox::outlier_share(all, 0.8) == 3.0 / 8);
    const std::vector<mox::weighed_map<double>> level{{one, one}};
    REQUIRE(mox::outlier_share(std::span<const mox::weighed_map<double>>(level), 1.0) == 0.0);  // not larger
    REQUIRE(mox::outlier_share(all) == 0.0);

    // M = 13 of the paper: one weight of 20 holds all of the sum.
    std::vector<float> spike(20);
    spike[7] = 1;
    const std::vector<double> flat(20, 0.5);
    const std::vector<mox::weighed_map<float>> single{{spike, flat}};
    REQUIRE(mox::outlier_share(std::span<const mox::weighed_map<float>>(single)) == 0.05);
    spike[7] = 0;
    REQUIRE(mox::outlier_share(std::span<const mox::weighed_map<float>>(single)) == 0.0);

    const std::vector<double> wrong(3, 1.0), nothing;
    const std::vector<mox::weighed_map<double>> uneven{{v, wrong}}, empty;
    using view = std::span<const mox::weighed_map<double>>;
    REQUIRE_THROWS_WITH(mox::outlier_share(view(uneven)), Contains("one input norm for each row"));
    REQUIRE_THROWS_WITH(mox::outlier_share(view(empty)), Contains("must hold weights"));
    REQUIRE_THROWS_WITH(mox::outlier_share(all, 0.0), Contains("'multiple' must be positive"));
    REQUIRE_THROWS_WITH(mox::activation_norms(0), Contains("'width' must be positive"));
    REQUIRE_THROWS_WITH(sizes.add(mox::matrix_view<float>{first.data(), 2, 1}), Contains("2 columns"));
}
