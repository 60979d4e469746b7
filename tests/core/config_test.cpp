#include <mox/core/config.hpp>

#include <string>
#include <type_traits>

#include "../support/catch.hpp"

#define MOX_TEST_TEXT_OF(x) #x
#define MOX_TEST_TEXT(x) MOX_TEST_TEXT_OF(x)

TEST_CASE("config: version, instruction set, check level and pages are part of the namespace",
          "[core][config]") {
    const std::string name = MOX_TEST_TEXT(MOX_ABI);
    CHECK(name.find("v" MOX_TEST_TEXT(MOX_VERSION_MAJOR) "_" MOX_TEST_TEXT(MOX_VERSION_MINOR)) == 0);
    CHECK(name.find(MOX_TEST_TEXT(MOX_ARCH_WORD)) != std::string::npos);
    CHECK(name.ends_with("_c" MOX_TEST_TEXT(MOX_CHECK_LEVEL) "_h" MOX_TEST_TEXT(MOX_HUGE_PAGES)));
    static_assert(std::is_same_v<mox::index_t, mox::MOX_ABI::index_t>);
    static_assert(std::is_signed_v<mox::index_t> && sizeof(mox::row_t) == 4);
}
