#include <mox/core/leaves.hpp>

#include <type_traits>
#include <vector>

#include <mox/core/coefficient.hpp>

#include "../support/catch.hpp"

using namespace mox;

TEST_CASE("leaves: types by number, repeated ones too", "[core][leaves]") {
    using list = leaves<int, char, int, double>;
    static_assert(list::size == 4);
    static_assert(std::is_same_v<list::at<0>, int> && std::is_same_v<list::at<2>, int> &&
                  std::is_same_v<list::at<3>, double>);
    static_assert(list::contains<char> && !list::contains<float> && !leaves<>::contains<int>);
    static_assert(std::is_same_v<list::append<float>, leaves<int, char, int, double, float>>);
    static_assert(std::is_same_v<join<leaves<int>, leaves<char, int>>, leaves<int, char, int>>);
    static_assert(std::is_same_v<join<leaves<>, leaves<>>, leaves<>>);
    SUCCEED();
}

TEST_CASE("leaves: indices forwards and backwards", "[core][leaves]") {
    std::vector<std::size_t> seen;
    for_each_index<3>([&](auto i) { seen.push_back(i); });
    for_each_index_reversed<3>([&](auto i) { seen.push_back(i); });
    for_each_index<0>([&](auto) { FAIL(); });
    CHECK(seen == std::vector<std::size_t>{0, 1, 2, 2, 1, 0});
}

TEST_CASE("leaves: type ids tell types apart", "[core][leaves]") {
    CHECK(type_id<int>() == type_id<int>());
    CHECK(type_id<int>() != type_id<const int>());
}
