#include <mox/core/error.hpp>

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "../support/catch.hpp"

using namespace mox;

namespace {
template <class Body>
std::string message(const Body& body) {
    try {
        body();
    } catch (const error& e) {
        return e.what();
    }
    return "nothing thrown";
}
}  // namespace

TEST_CASE("error: messages name the call, the argument and both numbers", "[core][error]") {
    static_assert(std::is_base_of_v<std::runtime_error, error>);
    CHECK(message([] { check::that(false, "mox::f", "is wrong"); }) == "mox::f: is wrong");
    CHECK(message([] { check::that(true, "mox::f", "is wrong"); }) == "nothing thrown");
    CHECK(message([] { check::size("mox::f", "x", "rows", 3, 4); }) ==
          "mox::f: argument 'x' must have 3 rows, got 4");
    CHECK(message([] { check::size("mox::f", "x", "rows", 4, 4); }) == "nothing thrown");
}

TEST_CASE("error: ids are checked at both ends", "[core][error]") {
    const std::vector<std::int32_t> v{0, 4, 5, -1};
    CHECK(message([&] { check::ids("mox::f", "ids", v.data(), 2, 5); }) == "nothing thrown");
    CHECK(message([&] { check::ids("mox::f", "ids", v.data(), 3, 5); }) ==
          "mox::f: argument 'ids' must hold values from 0 to 4, got 5 at position 2");
    CHECK(message([&] { check::ids("mox::f", "ids", v.data() + 3, 1, 5); }).find("got -1 at position 0") !=
          std::string::npos);
    CHECK(message([&] { check::ids("mox::f", "ids", v.data(), 0, 5); }) == "nothing thrown");
}
