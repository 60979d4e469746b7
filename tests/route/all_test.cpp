#include <mox/route/all.hpp>

#include <limits>
#include <vector>

#include <mox/exec/thread_pool.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

template <class T>
std::vector<row_t> chosen_by_all(executor_ref exec, const std::vector<T>& logits, index_t tokens,
                                 index_t outputs) {
    std::vector<row_t> chosen(logits.size() + 1, -7);
    route::all::select<T>(exec, {logits.data(), tokens, outputs}, chosen.data());
    REQUIRE(chosen.back() == -7);
    chosen.pop_back();
    return chosen;
}

}  // namespace

TEST_CASE("all: every output of every token, in order, whatever the logits are", "[route][all]") {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    CHECK(chosen_by_all<double>({}, {3, nan, -1, 0, 0, 0}, 2, 3) == std::vector<row_t>{0, 1, 2, 0, 1, 2});
    CHECK(chosen_by_all<float>({}, {1, 2}, 2, 1) == std::vector<row_t>{0, 0});
    CHECK(chosen_by_all<double>({}, {}, 0, 4).empty());
}

TEST_CASE("all: as many choices as the router has outputs", "[route][all]") {
    STATIC_REQUIRE(route::slots_of<route::all, 5> == 5);
    STATIC_REQUIRE(route::slots_of<route::all, 1> == 1);
    STATIC_REQUIRE(route::all::name == "all");
}

TEST_CASE("all: the same for any number of threads", "[route][all]") {
    constexpr index_t tokens = 1001, outputs = 3;
    const std::vector<double> logits(tokens * outputs);
    thread_pool pool(3);
    const auto one = chosen_by_all({}, logits, tokens, outputs);
    CHECK(chosen_by_all(pool, logits, tokens, outputs) == one);
    for (index_t i = 0; i < tokens * outputs; ++i)
        REQUIRE(one[static_cast<std::size_t>(i)] == static_cast<row_t>(i % outputs));
}
