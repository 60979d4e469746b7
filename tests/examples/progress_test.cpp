#include "../../examples/support/progress.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <sstream>
#include <string>

#include "../../examples/support/stop_flag.hpp"
#include "../support/catch.hpp"

namespace {

using clock_type = support::progress::clock;

clock_type::time_point at(int milliseconds) {
    return clock_type::time_point{} + std::chrono::hours(1) + std::chrono::milliseconds(milliseconds);
}

}  // namespace

TEST_CASE("progress: a terminal sees at most ten redraws a second and a clean end", "[examples]") {
    std::ostringstream out;
    {
        support::progress bar("dense", 1000, {.out = &out, .terminal = true, .utf8 = false}, at(0));
        for (int i = 1; i <= 1000; ++i) bar.update(i, 2.5, 512.0 * i, at(i));  // one second
        const std::string text = out.str();
        const auto redraws = std::count(text.begin(), text.end(), '\r');
        CHECK(redraws >= 8);
        CHECK(redraws <= 11);
        CHECK(text.find("tokens/s") != std::string::npos);
        CHECK(text.find('\n') == std::string::npos);
    }
    CHECK(out.str().ends_with("\r\x1b[K"));  // the destructor removed the unfinished bar
}

TEST_CASE("progress: a file gets few plain lines", "[examples]") {
    std::ostringstream out;
    support::progress bar("experts", 600, {.out = &out, .terminal = false, .utf8 = true}, at(0));
    for (int i = 1; i <= 600; ++i) bar.update(i, 2.5, 512.0 * i, at(i * 100));  // a minute
    bar.finish(at(60'000));
    const std::string text = out.str();
    const auto lines = std::count(text.begin(), text.end(), '\n');
    CHECK(lines >= 10);
    CHECK(lines <= 14);
    CHECK(text.find_first_of("\r\x1b") == std::string::npos);
    CHECK(text.ends_with("experts  600/600  loss 2.500  in 60.0 s  5.1 k tokens/s\n"));
}

TEST_CASE("progress: odd values do no harm", "[examples]") {
    std::ostringstream out;
    support::progress bar("\x1b[31m", 0, {.out = &out, .terminal = true, .utf8 = true}, at(0));
    bar.update(-5, std::nan(""), std::nan(""), at(0));
    bar.update(99, 1.0, 0, at(500));
    bar.say("a message");
    bar.finish(at(600));
    CHECK(out.str().find("\x1b[31m") == std::string::npos);
    CHECK(out.str().find("a message\n") != std::string::npos);
    CHECK(out.str().ends_with("\n"));
}

TEST_CASE("stop_flag: the first signal is a wish, and the old handlers come back", "[examples]") {
    {
        support::stop_flag stop;
        CHECK_FALSE(stop.requested());
        std::raise(SIGINT);
        CHECK(stop.requested());
        CHECK(stop.signal() == SIGINT);
        CHECK(std::signal(SIGINT, SIG_DFL) == SIG_DFL);  // the second one would end the program
    }
    const support::stop_flag again;
    CHECK_FALSE(again.requested());
}
