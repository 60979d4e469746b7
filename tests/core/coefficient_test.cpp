#include <mox/core/coefficient.hpp>

#include <type_traits>

#include "../support/catch.hpp"

namespace {
template <mox::coefficient C>
struct holder {
    static constexpr double value = C.value;
};
}  // namespace

TEST_CASE("coefficient: a number as a template argument", "[core][coefficient]") {
    CHECK(holder<mox::coefficient{0.02}>::value == 0.02);
    static_assert(std::is_same_v<holder<mox::coefficient{0.02}>, holder<mox::coefficient{0.02}>>);
    static_assert(!std::is_same_v<holder<mox::coefficient{0.02}>, holder<mox::coefficient{0.03}>>);
    CHECK(mox::coefficient{}.value == 0.0);
}
