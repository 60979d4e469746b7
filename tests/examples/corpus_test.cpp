#include "../../examples/support/corpus.hpp"
#include "../../examples/support/debian_texts.hpp"

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "../support/catch.hpp"
#include "../support/scratch.hpp"

namespace {

namespace fs = std::filesystem;
using mox_test::scratch;

constexpr support::corpus_options small{.minimum_bytes = 100, .minimum_validation = 20, .limit_bytes = 1000};

std::string complaint(const std::vector<fs::path>& files) {
    try {
        support::read_files(files, small);
    } catch (const support::input_error& e) {
        return e.what();
    }
    return "";
}

bool has(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

std::string all_bytes(std::size_t n) {
    std::string text;
    for (std::size_t i = 0; i < n; ++i) text += static_cast<char>(static_cast<unsigned char>(i % 256));
    return text;
}

}  // namespace

TEST_CASE("corpus: any bytes arrive unchanged and are split at the end", "[examples]") {
    const scratch folder;
    const std::string text = all_bytes(512);
    const auto c = support::read_files(std::vector{folder.file("bytes", text)}, small);
    REQUIRE(c.bytes.size() == 512);
    for (std::size_t i = 0; i < 512; ++i) REQUIRE(c.bytes[i] == i % 256);
    CHECK(c.validation().size() == 51);
    CHECK(c.training().size() == 461);
    CHECK(c.validation().data() == c.training().data() + 461);
    CHECK(has(c.describe(), "512 bytes, of which 461 bytes for training and 51 bytes for validation"));
    CHECK_FALSE(has(c.describe(), "\n"));
}

TEST_CASE("corpus: several files follow one another, and the validation part has its minimum", "[examples]") {
    const scratch folder;
    const std::vector files{folder.file("b", std::string(60, 'b')), folder.file("a", std::string(60, 'a'))};
    const auto c = support::read_files(files, small);
    CHECK(c.bytes[0] == 'b');
    CHECK(c.bytes[119] == 'a');
    CHECK(c.files == 2);
    CHECK(c.validation().size() == 20);
    CHECK(has(c.describe(), "2 files"));
}

TEST_CASE("corpus: a long text is cut at the limit, not one byte earlier", "[examples]") {
    const scratch folder;
    const auto exact = folder.file("exact", std::string(1000, 'x'));
    const auto longer = folder.file("longer", std::string(1001, 'x'));
    CHECK_FALSE(support::read_files(std::vector{exact}, small).limited);
    const auto c = support::read_files(std::vector{longer}, small);
    CHECK(c.limited);
    CHECK(c.bytes.size() == 1000);
    CHECK(has(c.describe(), "the first 1 kB"));
    CHECK(support::read_files(std::vector{exact, longer}, small).limited);
}

TEST_CASE("corpus: every unusable file is named", "[examples]") {
    const scratch folder;
    CHECK(has(complaint({folder.path / "nowhere"}), "nowhere' does not exist"));
    CHECK(has(complaint({folder.path}), "is a folder"));
    CHECK(has(complaint({folder.file("empty", "")}), "empty' is empty"));
    const std::string brief = complaint({folder.file("brief", "0123456789")});
    CHECK(has(brief, "brief' has 10 bytes, but at least 100 bytes are needed"));
    CHECK(has(complaint({folder.file("one", "1"), folder.file("two", "22")}), "have together 3 bytes"));
}

TEST_CASE("corpus: headers are read in the order of their paths", "[examples]") {
    const scratch folder;
    folder.file("lib/b.h", std::string(60, 'b'));
    folder.file("lib/a/z.h", std::string(60, 'z'));
    folder.file("lib/Core", std::string(60, 'C'));
    folder.file("lib/notes.txt", "not a header");
    folder.file("lib/empty.h", "");
    const auto c = support::read_headers(folder.path / "lib", "some headers", small);
    CHECK(c.files == 3);
    REQUIRE(c.bytes.size() == 180);
    CHECK(c.bytes[0] == 'C');
    CHECK(c.bytes[60] == 'z');
    CHECK(c.bytes[120] == 'b');
    CHECK(has(c.describe(), "some headers, 3 files"));
    CHECK_THROWS_AS(support::read_headers(folder.path / "gone", "x", small), support::input_error);
    fs::create_directory(folder.path / "bare");
    CHECK_THROWS_AS(support::read_headers(folder.path / "bare", "x", small), support::input_error);
}

TEST_CASE("corpus: the texts of the system's packages", "[examples]") {
    const scratch folder;
    folder.file("licences/B", std::string(60, 'b'));
    folder.file("licences/A", std::string(60, 'a'));
    fs::create_symlink("A", folder.path / "licences/C");
    const auto prose = support::read_licences(small, folder.path / "licences");
    CHECK(prose.files == 2);
    REQUIRE(prose.bytes.size() == 120);
    CHECK(prose.bytes[0] == 'a');

    folder.file("lib/other/File.pm", std::string(200, 'x'));
    folder.file("lib/machine/perl-base/b.pm", std::string(60, 'b'));
    folder.file("lib/machine/perl-base/IO/a.pm", std::string(60, 'a'));
    folder.file("lib/machine/perl-base/warnings.pm", "a table");
    folder.file("lib/machine/perl-base/unicode.pl", "another one");
    const auto code = support::read_perl(small, folder.path / "lib");
    CHECK(code.files == 2);
    REQUIRE(code.bytes.size() == 120);
    CHECK(code.bytes[0] == 'a');

    const std::string why = "the installed Perl modules, but the folder";
    CHECK_THROWS_WITH(support::read_perl(small, folder.path / "licences"), Catch::Matchers::Contains(why));
    CHECK_THROWS_AS(support::read_perl(small, folder.path / "gone"), support::input_error);
    CHECK_THROWS_AS(support::read_licences(small, folder.path / "gone"), support::input_error);
}
