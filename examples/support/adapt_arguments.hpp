#pragma once

// The command line of the adaptation example: that of the language models, with three texts or none.

#include <span>
#include <string>
#include <string_view>

#include "arguments.hpp"

namespace support {

inline std::string adapt_help(std::span<const std::string> known) {
    std::string text =
        "Usage: adapt [BASE TEXT_1 TEXT_2] [options]\n"
        "\n"
        "Trains a byte-level language model on BASE, freezes it, and adapts it with low-rank maps to TEXT_1\n"
        "and TEXT_2: to both at once, and to each alone. Shows what each adapter learns, forgets and costs\n"
        "(adapt_table.csv), merges the one that can be merged, and draws which experts or ranks each text\n"
        "uses (adapters.svg). Without files: the installed Eigen headers, licences and Perl modules.\n"
        "\n"
        "  --quick            less than a minute instead of a serious run\n"
        "  --steps N          training steps of the base network; an adapter gets half of them\n"
        "  --threads N        threads to work with (default: all)\n"
        "  --seed N           start of all random numbers (default: 1); same seed, same result\n"
        "  --out DIR          folder for the results (default: the current one)\n"
        "  --networks A,B     train only these adapters\n"
        "  --help             show this text\n"
        "\nAdapters:";
    for (std::size_t i = 0; i < known.size(); ++i) (text += i == 0 ? " " : ", ") += known[i];
    return text + "\n\nCtrl-C stops the training and shows what there is; a second Ctrl-C ends at once.\n";
}

/// Every mistake throws `usage_error`.
inline arguments parse_adapt_arguments(std::span<const std::string_view> words,
                                       std::span<const std::string> known) {
    arguments a = parse_arguments(words, known);
    if (!a.help && !a.files.empty() && a.files.size() != 3) {
        throw usage_error("Give three files, BASE TEXT_1 TEXT_2, or none, but not " +
                          std::to_string(a.files.size()) + ".");
    }
    return a;
}

}  // namespace support
