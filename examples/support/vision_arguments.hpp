#pragma once

// The command line of the vision transformer example.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "arguments.hpp"

namespace support {

struct vision_arguments {
    std::filesystem::path folder;  ///< empty: the program draws its own digits
    bool quick = false, digits = true, cluttered = true, help = false;
    int epochs = 16, seeds = 3, threads = 0;
    std::uint64_t seed = 1;
    double rate = 1e-3;  ///< highest learning rate; half of it when adapting
    std::filesystem::path out = ".";
    std::vector<std::string> networks;  ///< empty: all
};

inline std::string vision_help(std::span<const std::string> known) {
    std::string text =
        "Usage: vision_transformer [DIR] [options]\n"
        "\n"
        "Trains small vision transformers on digits, and on digits among clutter: dense ones, and ones\n"
        "with mixture of depths, whose tokens are picked by a learned router, by chance, or by the\n"
        "attention they received (A-MoD). DIR holds MNIST's four files in IDX format; without it the\n"
        "program draws digits itself. Shows a table (vision_table.csv), accuracy against cost\n"
        "(accuracy.svg) and the patches each layer looked at (routing.png).\n"
        "\n"
        "  --task NAME        digits, cluttered or both (default: both)\n"
        "  --epochs N         passes over the training images, half of them to adapt (default: 16)\n"
        "  --seeds N          repetitions with other random numbers (default: 3)\n"
        "  --rate N           highest learning rate in millionths (default: 1000), half of it to adapt\n"
        "  --quick            one seed, two epochs, few images: shows that everything works\n"
        "  --threads N        threads to work with (default: all)\n"
        "  --seed N           first seed (default: 1)\n"
        "  --out DIR          folder for the results (default: the current one)\n"
        "  --networks A,B     train only these; what is adapted needs dense, too\n"
        "  --help             show this text\n"
        "\n"
        "Ctrl-C stops the training and shows what there is; a second Ctrl-C ends at once.\n"
        "\n"
        "Networks (the number is the capacity of every other block, or whose FLOPs a dense one has):\n";
    for (std::size_t i = 0; i < known.size(); ++i) text += (i % 5 ? ", " : i ? ",\n  " : "  ") + known[i];
    return text + "\n";
}

/// Every mistake throws `usage_error`.
inline vision_arguments parse_vision_arguments(const std::vector<std::string_view>& words,
                                               std::span<const std::string> known) {
    constexpr std::string_view options[] = {"--task", "--epochs", "--seeds",    "--quick", "--threads",
                                            "--seed", "--out",    "--networks", "--rate",  "--help"};
    vision_arguments a;
    for (std::size_t i = 0; i < words.size(); ++i) {
        const std::string_view word = words[i];
        const auto value = [&]() -> std::string_view {
            if (i + 1 >= words.size())
                throw usage_error("The option " + std::string(word) + " needs a value.");
            return words[++i];
        };
        if (!word.starts_with('-')) {
            if (!a.folder.empty() || word.empty()) throw usage_error("Give at most one folder of images.");
            a.folder = word;
        } else if (word == "--help" || word == "-h") {
            a.help = true;
            return a;
        } else if (word == "--quick") {
            a.quick = true;
            a.epochs = 2;
            a.seeds = 1;
        } else if (word == "--task") {
            const std::string_view name = value();
            a.digits = name == "digits" || name == "both";
            a.cluttered = name == "cluttered" || name == "both";
            if (!a.digits && !a.cluttered) {
                throw usage_error("The option --task needs digits, cluttered or both, but got '" +
                                  printable(name) + "'.");
            }
        } else if (word == "--epochs") {
            a.epochs = detail::whole_number<int>(word, value(), 1, 10000);
        } else if (word == "--seeds") {
            a.seeds = detail::whole_number<int>(word, value(), 1, 1000);
        } else if (word == "--threads") {
            a.threads = detail::whole_number<int>(word, value(), 1, 1024);
        } else if (word == "--seed") {
            a.seed = detail::whole_number<std::uint64_t>(word, value(), 0, UINT64_MAX / 2);
        } else if (word == "--rate") {
            // In millionths, so that one parser of whole numbers is enough.
            a.rate = 1e-6 * detail::whole_number<int>(word, value(), 1, 1000000);
        } else if (word == "--networks") {
            a.networks = detail::network_list(value(), known);
        } else if (word == "--out") {
            a.out = value();
        } else {
            throw usage_error("There is no option '" + printable(word) + "'" +
                              detail::suggestion(word, options) + "; see --help.");
        }
    }
    return a;
}

}  // namespace support
