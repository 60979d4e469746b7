#include "../../examples/support/adapt_arguments.hpp"
#include "../../examples/support/arguments.hpp"

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "../support/catch.hpp"

namespace {

const std::vector<std::string> networks{"dense", "experts", "depth"};

support::arguments parse(std::initializer_list<std::string_view> words) {
    return support::parse_arguments(std::vector<std::string_view>(words), networks);
}

std::string complaint(std::initializer_list<std::string_view> words) {
    try {
        parse(words);
    } catch (const support::usage_error& e) {
        return e.what();
    }
    return "";
}

bool has(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

}  // namespace

TEST_CASE("arguments: nothing given leaves the defaults", "[examples]") {
    const auto a = parse({});
    CHECK(a.files.empty());
    CHECK_FALSE(a.quick);
    CHECK_FALSE(a.steps.has_value());
    CHECK(a.threads == 0);
    CHECK(a.seed == 1);
    CHECK(a.networks.empty());
    CHECK_FALSE(a.help);
}

TEST_CASE("arguments: files and options in any order", "[examples]") {
    const auto a = parse({"a.txt", "--steps", "300", "--quick", "b.txt", "--threads=2", "--seed", "7",
                          "--out", "folder", "--networks", "depth,dense", "--", "--odd-name"});
    REQUIRE(a.files.size() == 3);
    CHECK(a.files[0] == "a.txt");
    CHECK(a.files[2] == "--odd-name");
    CHECK(a.quick);
    CHECK(a.steps == 300);
    CHECK(a.threads == 2);
    CHECK(a.seed == 7);
    CHECK(a.out == "folder");
    CHECK(a.networks == std::vector<std::string>{"dense", "depth"});  // in the known order
}

TEST_CASE("arguments: help wins over later mistakes and names everything", "[examples]") {
    CHECK(parse({"--help", "--nonsense"}).help);
    CHECK(parse({"-h"}).help);
    const std::string text = support::help_text(networks);
    for (const char* word : {"--quick", "--steps", "--threads", "--seed", "--out", "--networks", "--help",
                             "dense", "experts", "depth"}) {
        CHECK(has(text, word));
    }
}

TEST_CASE("arguments: every mistake is one clear sentence", "[examples]") {
    CHECK(has(complaint({"--stepz", "3"}), "did you mean --steps?"));
    CHECK(has(complaint({"-x"}), "Unknown option '-x'"));
    CHECK(has(complaint({"--steps"}), "needs a value"));
    CHECK(has(complaint({"--steps="}), "needs a value"));
    CHECK(has(complaint({"--out", "--quick"}), "--out needs a value"));
    CHECK(has(complaint({"--quick=yes"}), "takes no value"));
    CHECK(has(complaint({""}), "empty"));
    for (const char* option : {"--steps", "--threads", "--seed"}) {
        for (const char* value : {"0", "-1", "x", "3x", "1.5", " 1", "+1", "1e3", "99999999999999999999"}) {
            CAPTURE(option, value);
            CHECK(has(complaint({option, value}), "needs a whole number from 1 to"));
        }
    }
    CHECK(has(complaint({"--networks", "dense,dept"}), "no network 'dept' (did you mean depth?)"));
    CHECK(has(complaint({"--networks", "dense,"}), "no network ''"));
    CHECK_FALSE(has(complaint({"--\x1b[31m"}), "\x1b"));  // nothing reaches the terminal as a command
}

TEST_CASE("arguments: main's own argc and argv", "[examples]") {
    const char* argv[] = {"language_model", "--steps", "5"};
    CHECK(support::parse_arguments(3, argv, networks).steps == 5);
    CHECK_FALSE(support::parse_arguments(0, nullptr, networks).steps.has_value());
}

TEST_CASE("arguments: the adaptation takes three texts or none", "[examples]") {
    const auto adapt = [](std::initializer_list<std::string_view> words) {
        return support::parse_adapt_arguments(std::vector<std::string_view>(words), networks);
    };
    CHECK(adapt({"--quick"}).files.empty());
    const auto a = adapt({"base", "--steps", "7", "one", "two"});
    REQUIRE(a.files.size() == 3);
    CHECK(a.files[0] == "base");
    CHECK(a.files[2] == "two");
    CHECK(a.steps == 7);
    CHECK(adapt({"a", "--help"}).help);
    CHECK_THROWS_WITH(adapt({"a", "b"}), "Give three files, BASE TEXT_1 TEXT_2, or none, but not 2.");
    CHECK_THROWS_AS(adapt({"a", "b", "c", "d"}), support::usage_error);
    CHECK_THROWS_AS(adapt({"--step", "7"}), support::usage_error);
    const std::string text = support::adapt_help(networks);
    for (const char* word : {"BASE", "TEXT_1", "TEXT_2", "--quick", "--steps", "--threads", "--seed", "--out",
                             "--networks", "--help", "dense", "Ctrl-C"}) {
        CHECK(has(text, word));
    }
}
