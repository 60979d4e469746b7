#include <mox/route/plan.hpp>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include <mox/core/random.hpp>
#include <mox/route/capacity.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

struct choices {
    index_t tokens, per_token, experts, outputs;
    std::vector<row_t> chosen;
    std::vector<double> gate;
};

// Distinct random choices for every token.
choices random_choices(index_t tokens, index_t per_token, index_t experts, index_t nulls,
                       std::uint64_t seed) {
    choices c{tokens, per_token, experts, experts + nulls, {}, {}};
    const random_stream numbers(seed, 7);
    std::uint64_t n = 0;
    for (index_t t = 0; t < tokens; ++t) {
        std::vector<row_t> all;
        for (index_t e = 0; e < c.outputs; ++e) all.push_back(static_cast<row_t>(e));
        for (index_t j = 0; j < per_token; ++j) {
            const auto pick =
                static_cast<std::size_t>(j) + numbers.bits(n++) % static_cast<std::size_t>(c.outputs - j);
            std::swap(all[static_cast<std::size_t>(j)], all[pick]);
            c.chosen.push_back(all[static_cast<std::size_t>(j)]);
            c.gate.push_back(numbers.uniform(1000 + n));
        }
    }
    return c;
}

}  // namespace

TEST_CASE("plan: every true choice has exactly one slot, sorted by expert, tokens ascending",
          "[route][plan]") {
    for (const index_t tokens : {index_t{0}, index_t{1}, index_t{2}, index_t{17}, index_t{100}}) {
        for (const index_t experts : {index_t{1}, index_t{2}, index_t{5}}) {
            for (const index_t nulls : {index_t{0}, index_t{3}}) {
                for (index_t k = 1; k <= std::min<index_t>(3, experts + nulls); ++k) {
                    CAPTURE(tokens, experts, nulls, k);
                    choices c =
                        random_choices(tokens, k, experts, nulls, static_cast<std::uint64_t>(tokens + k));
                    const std::vector<row_t> before = c.chosen;
                    arena memory;
                    const route::plan<double> p = route::make_plan<double>(
                        memory, tokens, k, experts, c.outputs, c.chosen.data(), c.gate.data(), tokens);
                    CHECK(c.chosen == before);
                    CHECK(p.dropped == 0);
                    CHECK(p.tokens == tokens);
                    CHECK(p.experts == experts);
                    CHECK(p.choices == k);
                    REQUIRE(p.offsets[0] == 0);
                    REQUIRE(p.offsets[experts] == p.slots);
                    CHECK(p.groups().slots() == p.slots);
                    CHECK(p.groups().count == experts);
                    std::vector<row_t> counts(static_cast<std::size_t>(c.outputs), 0);
                    for (row_t e : before) ++counts[static_cast<std::size_t>(e)];
                    for (index_t e = 0; e < c.outputs; ++e)
                        CHECK(p.counts[e] == counts[static_cast<std::size_t>(e)]);
                    std::set<row_t> seen;
                    for (index_t e = 0; e < experts; ++e) {
                        CHECK(p.offsets[e + 1] - p.offsets[e] == counts[static_cast<std::size_t>(e)]);
                        for (index_t s = p.offsets[e]; s < p.offsets[e + 1]; ++s) {
                            const row_t choice = p.choice[s];
                            CHECK(before[static_cast<std::size_t>(choice)] == e);
                            CHECK(p.token[s] == choice / k);
                            CHECK(p.gate[s] == c.gate[static_cast<std::size_t>(choice)]);
                            CHECK(seen.insert(choice).second);
                            if (s > p.offsets[e]) CHECK(p.token[s] > p.token[s - 1]);
                        }
                    }
                    const auto real =
                        std::count_if(before.begin(), before.end(), [&](row_t e) { return e < experts; });
                    CHECK(static_cast<index_t>(seen.size()) == static_cast<index_t>(real));
                    CHECK(p.slots == static_cast<index_t>(real));
                }
            }
        }
    }
}

TEST_CASE("plan: capacity admits first choices in token order, then second ones", "[route][plan]") {
    // Expert 0 is wanted second by token 0 and first by tokens 1, 2 and 3; the limit is 2.
    std::vector<row_t> chosen{1, 0, 0, 1, 0, 1, 0, 1};
    const std::vector<float> gate{.1f, .2f, .3f, .4f, .5f, .6f, .7f, .8f};
    arena memory;
    const auto p = route::make_plan<float>(memory, 4, 2, 2, 2, chosen.data(), gate.data(), 2);
    // First choices: token 0 -> 1, tokens 1, 2 -> 0, token 3 finds 0 full. Second: token 0 finds 0 full,
    // token 1 takes the last place of 1, tokens 2 and 3 find it full.
    CHECK(chosen == std::vector<row_t>{1, -1, 0, 1, 0, -1, -1, -1});
    CHECK(p.dropped == 4);
    CHECK(p.slots == 4);
    CHECK(p.counts[0] == 4);
    CHECK(p.counts[1] == 4);
    CHECK(std::vector<row_t>(p.offsets, p.offsets + 3) == std::vector<row_t>{0, 2, 4});
    CHECK(std::vector<row_t>(p.token, p.token + 4) == std::vector<row_t>{1, 2, 0, 1});
    CHECK(std::vector<row_t>(p.choice, p.choice + 4) == std::vector<row_t>{2, 4, 0, 3});
    CHECK(std::vector<float>(p.gate, p.gate + 4) == std::vector<float>{.3f, .5f, .1f, .4f});
}

TEST_CASE("plan: null experts have no capacity and no slots", "[route][plan]") {
    std::vector<row_t> chosen{1, 1, 1, 0, 0, 1};
    const std::vector<double> gate(6, 1.0);
    arena memory;
    const auto p = route::make_plan<double>(memory, 6, 1, 1, 2, chosen.data(), gate.data(), 1);
    CHECK(chosen == std::vector<row_t>{1, 1, 1, 0, -1, 1});
    CHECK(p.slots == 1);
    CHECK(p.token[0] == 3);
    CHECK(p.dropped == 1);
    CHECK(p.counts[0] == 2);
    CHECK(p.counts[1] == 4);
}

TEST_CASE("plan: against a plain simulation of admission", "[route][plan]") {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
        for (const index_t limit : {index_t{1}, index_t{3}, index_t{8}, index_t{1000}}) {
            CAPTURE(seed, limit);
            choices c = random_choices(31, 3, 4, 1, seed);
            std::vector<row_t> expected = c.chosen;
            std::vector<index_t> used(5, 0);
            index_t dropped = 0;
            for (std::size_t j = 0; j < 3; ++j) {
                for (std::size_t t = 0; t < 31; ++t) {
                    row_t& e = expected[t * 3 + j];
                    if (e == 4) continue;
                    if (used[static_cast<std::size_t>(e)]++ >= limit) {
                        e = -1;
                        ++dropped;
                    }
                }
            }
            arena memory;
            const auto p =
                route::make_plan<double>(memory, 31, 3, 4, 5, c.chosen.data(), c.gate.data(), limit);
            CHECK(c.chosen == expected);
            CHECK(p.dropped == dropped);
            for (index_t e = 0; e < 4; ++e) {
                std::vector<row_t> tokens;
                for (std::size_t i = 0; i < expected.size(); ++i) {
                    if (expected[i] == e) tokens.push_back(static_cast<row_t>(i / 3));
                }
                CHECK(tokens == std::vector<row_t>(p.token + p.offsets[e], p.token + p.offsets[e + 1]));
            }
        }
    }
}
