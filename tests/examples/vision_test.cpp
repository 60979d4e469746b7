#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "../../examples/support/digits.hpp"
#include "../../examples/support/idx.hpp"
#include "../../examples/support/vision_arguments.hpp"
#include "../support/catch.hpp"
#include "../support/scratch.hpp"

namespace {

namespace fs = std::filesystem;
using mox_test::scratch;

std::string big_endian(std::uint32_t n) {
    return {static_cast<char>(n >> 24), static_cast<char>(n >> 16), static_cast<char>(n >> 8),
            static_cast<char>(n)};
}
std::string image_file(std::uint32_t count, std::uint32_t rows, std::uint32_t cols, std::size_t bytes) {
    return big_endian(0x803) + big_endian(count) + big_endian(rows) + big_endian(cols) +
           std::string(bytes, '\x40');
}
std::string label_file(std::uint32_t count, const std::string& labels) {
    return big_endian(0x801) + big_endian(count) + labels;
}

std::string failure(const fs::path& images, const fs::path& labels) {
    try {
        support::read_idx(images, labels);
    } catch (const support::input_error& e) {
        return e.what();
    }
    return "";
}

const std::vector<std::string> known{"dense", "amod-0.5"};

std::string usage(const std::vector<std::string_view>& words) {
    try {
        support::parse_vision_arguments(words, known);
    } catch (const support::usage_error& e) {
        return e.what();
    }
    return "";
}

}  // namespace

TEST_CASE("idx: images and labels are read", "[examples][idx]") {
    const scratch dir;
    std::string images = image_file(2, 28, 28, 2 * 784);
    images.back() = '\x7f';
    const auto set = support::read_idx(dir.file("i", images), dir.file("l", label_file(2, {3, 9})));
    CHECK(set.count() == 2);
    CHECK(set.side == 28);
    CHECK(set.image(1)[783] == 0x7f);
    CHECK(set.image(0)[0] == 0x40);
    CHECK(set.labels == std::vector<std::uint8_t>{3, 9});
}

TEST_CASE("idx: hostile files get a sentence", "[examples][idx]") {
    const scratch dir;
    const auto labels = dir.file("l", label_file(2, {3, 9}));
    const auto images = dir.file("i", image_file(2, 28, 28, 2 * 784));
    const auto says = [&](const std::string& text, const std::string& words) {
        INFO(text);
        CHECK(text.find(words) != std::string::npos);
    };
    says(failure(dir.path / "missing", labels), "cannot be read");
    says(failure(dir.path, labels), "cannot be read");
    says(failure(dir.file("a", ""), labels), "does not hold images in the IDX format");
    says(failure(labels, labels), "does not hold images in the IDX format");
    says(failure(images, images), "does not hold labels in the IDX format");
    says(failure(dir.file("b", image_file(2, 28, 28, 2 * 784 - 1)), labels), "is damaged");
    says(failure(dir.file("c", image_file(2, 28, 28, 2 * 784 + 1)), labels), "is damaged");
    // Sizes whose product is too large for any memory, or wraps around.
    says(failure(dir.file("d", image_file(0xffffffff, 0xffffffff, 0xffffffff, 100)), labels), "is damaged");
    says(failure(dir.file("e", image_file(0x80000000, 0x80000000, 4, 100)), labels), "is damaged");
    says(failure(dir.file("f", image_file(3, 28, 28, 3 * 784)), labels), "must hold the same number");
    says(failure(dir.file("g", image_file(0, 28, 28, 0)), dir.file("h", label_file(0, ""))),
         "must hold the same number");
    says(failure(dir.file("j", image_file(2, 14, 56, 2 * 784)), labels), "must have 28 x 28 pixels");
    says(failure(images, dir.file("k", label_file(2, {3, 10}))), "holds the label 10");
}

TEST_CASE("digits: drawing and painting are functions of their numbers", "[examples][digits]") {
    const auto set = support::draw_digits(60, 1), again = support::draw_digits(60, 1);
    CHECK(set.pixels == again.pixels);
    CHECK(support::draw_digits(60, 2).pixels != set.pixels);
    std::array<int, 10> seen{};
    for (const auto l : set.labels) ++seen.at(l);
    for (const int n : seen) CHECK(n > 0);
    for (const auto what : {support::task::digits, support::task::cluttered}) {
        const std::size_t size = support::canvas_side(what) * support::canvas_side(what);
        std::vector<float> a(size), b(size), c(size);
        support::paint(what, set, 5, 1, 7, a.data());
        support::paint(what, set, 5, 1, 7, b.data());
        support::paint(what, set, 5, 1, 8, c.data());
        CHECK(a == b);
        CHECK(a != c);
        double ink = 0, inside = 0;
        for (const float v : a) {
            CHECK((v >= 0 && v <= 1));
            ink += static_cast<double>(v);
        }
        for (std::size_t i = 0; i < 784; ++i) inside += set.image(5)[i] / 255.0;
        // Clutter adds ink, a shift by two pixels loses next to none.
        CHECK(ink > 0.9 * inside);
    }
}

TEST_CASE("vision arguments: options and mistakes", "[examples][arguments]") {
    const auto a = support::parse_vision_arguments({"dir", "--task", "cluttered", "--epochs", "3", "--seeds",
                                                    "2", "--threads", "1", "--seed", "9", "--rate", "500",
                                                    "--out", "o", "--networks", "amod-0.5"},
                                                   known);
    CHECK(a.folder == "dir");
    CHECK((!a.digits && a.cluttered && a.epochs == 3 && a.seeds == 2 && a.threads == 1 && a.seed == 9));
    CHECK(a.rate == Approx(5e-4));
    CHECK(a.out == "o");
    CHECK(a.networks == std::vector<std::string>{"amod-0.5"});
    CHECK(support::parse_vision_arguments({"--help", "--nonsense"}, known).help);
    CHECK(usage({"a", "b"}) == "Give at most one folder of images.");
    CHECK(usage({"--epochs"}) == "The option --epochs needs a value.");
    CHECK(usage({"--epoch", "3"}) == "There is no option '--epoch' (did you mean --epochs?); see --help.");
    CHECK(usage({"--epochs", "0"}).find("whole number from 1 to 10000") != std::string::npos);
    CHECK(usage({"--task", "letters"}).find("digits, cluttered or both") != std::string::npos);
    CHECK(usage({"--networks", "amod"}).find("There is no network 'amod'") != std::string::npos);
}
