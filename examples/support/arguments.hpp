#pragma once

// The command line of the language model example.

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "text.hpp"

namespace support {

struct arguments {
    std::vector<std::filesystem::path> files;  ///< empty: the installed Eigen headers are the text
    bool quick = false;
    std::optional<std::int64_t> steps;  ///< of the dense network; empty: the program's own choice
    int threads = 0;                    ///< 0: all that the machine has
    std::uint64_t seed = 1;
    std::filesystem::path out = ".";
    std::vector<std::string> networks;  ///< in the order of the known names; empty: all
    bool help = false;
};

/// What `--help` prints.
inline std::string help_text(std::span<const std::string> known_networks) {
    std::string text =
        "Usage: language_model [FILE...] [options]\n"
        "\n"
        "Trains byte-level language models on the FILEs at equal training FLOPs: one dense, the others with\n"
        "layers that choose, byte by byte, what they compute. Shows a table (table.csv), a chart\n"
        "(language_model.svg) and which expert every byte used (routing.html). Without FILE the installed\n"
        "Eigen headers are the text.\n"
        "\n"
        "  --quick            half a minute instead of a serious run\n"
        "  --steps N          training steps of the dense network; the others get the same FLOPs\n"
        "  --threads N        threads to work with (default: all)\n"
        "  --seed N           start of all random numbers (default: 1); same seed, same result\n"
        "  --out DIR          folder for the results (default: the current one)\n"
        "  --networks A,B     train only these\n"
        "  --help             show this text\n";
    if (!known_networks.empty()) {
        text += "\nNetworks:";
        for (std::size_t i = 0; i < known_networks.size(); ++i) {
            ((text += i == 0 ? " " : ", ") += known_networks[i]);
        }
        text += '\n';
    }
    return text + "\nCtrl-C stops the training and shows what there is; a second Ctrl-C ends at once.\n";
}

namespace detail {

/// Number of single-character edits between two words.
inline std::size_t edit_distance(std::string_view a, std::string_view b) {
    std::vector<std::size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 0; i < a.size(); ++i) {
        std::size_t diagonal = std::exchange(row[0], i + 1);
        for (std::size_t j = 0; j < b.size(); ++j) {
            const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
            diagonal = row[j + 1];
            row[j + 1] = std::min({replaced, diagonal + 1, row[j] + 1});
        }
    }
    return row.back();
}

/// " Did you mean ...?" for a word that is nearly a known one, otherwise nothing.
template <class Words>
std::string suggestion(std::string_view word, const Words& known) {
    std::size_t best = 3;
    std::string out;
    for (const auto& k : known) {
        const std::size_t distance = edit_distance(word, k);
        if (distance >= best || distance * 2 >= word.size()) continue;
        best = distance;
        out = " (did you mean " + std::string(k) + "?)";
    }
    return out;
}

template <class Int>
Int whole_number(std::string_view option, std::string_view text, Int least, Int most) {
    Int value{};
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool whole = failure == std::errc{} && end == text.data() + text.size();
    if (!whole || value < least || value > most) {
        throw usage_error("The option " + std::string(option) + " needs a whole number from " +
                          std::to_string(least) + " to " + std::to_string(most) + ", but got '" +
                          printable(text) + "'.");
    }
    return value;
}

inline std::vector<std::string> network_list(std::string_view list, std::span<const std::string> known) {
    std::vector<std::string> wanted;
    for (std::size_t at = 0; at <= list.size();) {
        const std::size_t comma = std::min(list.find(',', at), list.size());
        wanted.emplace_back(list.substr(at, comma - at));
        at = comma + 1;
    }
    std::string names;
    for (const std::string& k : known) (names += names.empty() ? "" : ", ") += k;
    for (const std::string& w : wanted) {
        if (std::find(known.begin(), known.end(), w) != known.end()) continue;
        throw usage_error("There is no network '" + printable(w) + "'" + suggestion(w, known) +
                          ": --networks takes a comma-separated list of " + names + ".");
    }
    std::vector<std::string> ordered;
    for (const std::string& k : known) {
        if (std::find(wanted.begin(), wanted.end(), k) != wanted.end()) ordered.push_back(k);
    }
    return ordered;
}

}  // namespace detail

/// `words`: the command line without the program's name. Every mistake throws `usage_error`. `--help` wins
/// over everything after it. Later options win over earlier ones.
inline arguments parse_arguments(std::span<const std::string_view> words,
                                 std::span<const std::string> known_networks) {
    constexpr std::string_view options[] = {"--quick", "--steps", "--threads",  "--seed",
                                            "--out",   "--help",  "--networks", "-h"};
    arguments result;
    bool only_files = false;
    for (std::size_t i = 0; i < words.size(); ++i) {
        const std::string_view word = words[i];
        if (only_files || !word.starts_with('-')) {
            if (word.empty()) throw usage_error("The name of a FILE is empty.");
            result.files.emplace_back(word);
            continue;
        }
        if (word == "--") {
            only_files = true;
            continue;
        }
        const std::size_t equals = std::min(word.find('='), word.size());
        const std::string_view option = word.substr(0, equals);
        const bool attached = equals < word.size();  // --steps=100
        if (std::find(std::begin(options), std::end(options), option) == std::end(options)) {
            throw usage_error("Unknown option '" + printable(option) + "'" +
                              detail::suggestion(option, options) + "; --help lists all of them.");
        }
        if (option == "--quick" || option == "--help" || option == "-h") {
            if (attached) throw usage_error("The option " + std::string(option) + " takes no value.");
            (option == "--quick" ? result.quick : result.help) = true;
            if (result.help) return result;
            continue;
        }
        if (!attached && i + 1 == words.size()) {
            throw usage_error("The option " + std::string(option) + " needs a value behind it.");
        }
        const std::string_view value = attached ? word.substr(equals + 1) : words[++i];
        if (value.empty() || (!attached && value.starts_with("--"))) {
            throw usage_error("The option " + std::string(option) + " needs a value behind it.");
        }
        if (option == "--steps") {
            result.steps = detail::whole_number<std::int64_t>(option, value, 1, 1'000'000'000);
        } else if (option == "--threads") {
            result.threads = detail::whole_number<int>(option, value, 1, 1024);
        } else if (option == "--seed") {
            result.seed = detail::whole_number<std::uint64_t>(option, value, 1, UINT64_MAX);
        } else if (option == "--out") {
            result.out = value;
        } else {
            result.networks = detail::network_list(value, known_networks);
        }
    }
    return result;
}

/// For `main(argc, argv)`.
inline arguments parse_arguments(int argc, const char* const* argv,
                                 std::span<const std::string> known_networks) {
    std::vector<std::string_view> words;
    for (int i = 1; i < argc; ++i) words.emplace_back(argv[i]);
    return parse_arguments(words, known_networks);
}

}  // namespace support
