#include <mox/core/pages.hpp>

#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

#include <mox/core/buffer.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

// What the system notes about the mapping that holds p: " hg" where huge pages were asked for. Empty: it does
// not tell.
std::string flags_at(const void* p) {
    const auto address = reinterpret_cast<std::uintptr_t>(p);
    std::ifstream maps("/proc/self/smaps");
    bool inside = false;
    for (std::string line; std::getline(maps, line);) {
        std::uintptr_t begin = 0, end = 0;
        char dash = 0;
        std::istringstream head(line);
        if (head >> std::hex >> begin >> dash >> end && dash == '-') {
            inside = begin <= address && address < end;
        } else if (inside && line.starts_with("VmFlags:")) {
            return line;
        }
    }
    return "";
}

}  // namespace

TEST_CASE("pages: large buffers begin where a huge page can, small ones are left alone", "[core][pages]") {
    const index_t values = static_cast<index_t>(huge_page / sizeof(float));
    buffer<float> large(3 * values + 5);
    CHECK(reinterpret_cast<std::uintptr_t>(large.data()) % huge_page == 0);
    CHECK(large[3 * values + 4] == 0.0f);
    large[2 * values] = 3;
    const buffer<float> copy = large;
    CHECK(reinterpret_cast<std::uintptr_t>(copy.data()) % huge_page == 0);
    CHECK(copy[2 * values] == 3.0f);
    CHECK(buffer<float>(values - 1)[values - 2] == 0.0f);

    void* const p = ::operator new (2 * huge_page, std::align_val_t{huge_page});
    const bool agreed = ask_for_huge_pages(p, 2 * huge_page);
    const std::string flags = flags_at(p);
    CAPTURE(agreed, flags);
    // An emulator agrees and does nothing, and notes nothing.
#if defined(__x86_64__) && MOX_HUGE_PAGES
    if (agreed && !flags.empty()) CHECK(flags.find(" hg") != std::string::npos);
#endif
    CHECK_FALSE(ask_for_huge_pages(p, huge_page - 1));
    ::operator delete (p, std::align_val_t{huge_page});
}
