#include <mox/route/entropy_broadcast.hpp>

#include <vector>

#include "../support/catch.hpp"

using namespace mox;

namespace {

template <class Selector>
std::vector<row_t> chosen_of(const std::vector<double>& p) {
    const auto n = static_cast<index_t>(p.size());
    route::router_view<double> r;
    r.logits = r.probability = {p.data(), 1, n};
    r.experts = r.slots = n;
    std::vector<row_t> chosen(p.size(), 77);
    Selector::select({}, r, chosen.data());
    return chosen;
}

using route::entropy_broadcast;
using tsallis = entropy::tsallis<>;
template <index_t Keep>
using narrow = entropy_broadcast<tsallis, coefficient{0.9}, coefficient{0.75}, Keep>;

}  // namespace

TEST_CASE("entropy_broadcast: undecided tokens use all experts, best first", "[route][entropy]") {
    CHECK(chosen_of<narrow<2>>({0.25, 0.25, 0.25, 0.25}) == std::vector<row_t>{0, 1, 2, 3});
    CHECK(chosen_of<narrow<2>>({0.24, 0.26, 0.26, 0.24}) == std::vector<row_t>{1, 2, 0, 3});
    using never = entropy_broadcast<tsallis, coefficient{1.0}>;
    CHECK(chosen_of<never>({0.25, 0.25, 0.25, 0.25}) == std::vector<row_t>{0, 1, 2, -1});
    using always = entropy_broadcast<tsallis, coefficient{0.0}>;
    CHECK(chosen_of<always>({0.97, 0.01, 0.01, 0.01}) == std::vector<row_t>{0, 1, 2, 3});
    // At the threshold a token is decided: one expert alone has no entropy, and crosses the sum.
    using alone = entropy_broadcast<tsallis, coefficient{0.0}, coefficient{0.5}, 0>;
    CHECK(chosen_of<alone>({1.0}) == std::vector<row_t>{-1});
}

TEST_CASE("entropy_broadcast: decided tokens stay within the sum, and keep the first ones",
          "[route][entropy]") {
    CHECK(chosen_of<narrow<0>>({0.05, 0.7, 0.04, 0.21}) == std::vector<row_t>{1, -1, -1, -1});
    CHECK(chosen_of<narrow<2>>({0.05, 0.7, 0.04, 0.21}) == std::vector<row_t>{1, 3, -1, -1});
    // The expert that crosses the sum is left out, also when nothing remains.
    CHECK(chosen_of<narrow<0>>({0.9, 0.05, 0.03, 0.02}) == std::vector<row_t>{-1, -1, -1, -1});
    CHECK(chosen_of<narrow<1>>({0.9, 0.05, 0.03, 0.02}) == std::vector<row_t>{0, -1, -1, -1});
}

TEST_CASE("entropy_broadcast: the whole of the probability keeps all experts but for rounding",
          "[route][entropy]") {
    using whole = entropy_broadcast<tsallis, coefficient{1.0}, coefficient{1.0}, 0>;
    CHECK(chosen_of<whole>({0.25, 0.25, 0.25, 0.25}) == std::vector<row_t>{0, 1, 2, 3});
    CHECK(chosen_of<whole>({0.25, 0.5, 0.25}) == std::vector<row_t>{1, 0, 2});
    // 0.8 and four times 0.05 add up to one and one unit of the last place.
    CHECK(chosen_of<whole>({0.8, 0.05, 0.05, 0.05, 0.05}) == std::vector<row_t>{0, 1, 2, 3, -1});
}
