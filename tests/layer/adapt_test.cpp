#include <mox/layer/adapt.hpp>

#include <type_traits>

#include <mox/layer/attention.hpp>
#include <mox/layer/linear.hpp>

#include "../support/catch.hpp"

using namespace mox;

TEST_CASE("adapt: maps as they are are no wrapping at all", "[layer][adapt]") {
    using map = linear<3, 5, bias::with>;
    STATIC_REQUIRE(std::is_same_v<as_they_are::around<map>, map>);
    // It is what layers with maps inside take when nothing is said.
    constexpr attention_spec heads{.width = 8, .heads = 2};
    STATIC_REQUIRE(
        std::is_same_v<attention<heads, mask::causal>, attention<heads, mask::causal, as_they_are>>);
}
