#pragma once

// Two texts that packages bring which every Debian and Ubuntu has: English prose, and a programming language.

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

#include "corpus.hpp"

namespace support {

/// The licences of package base-files.
inline corpus read_licences(const corpus_options& options = {},
                            const std::filesystem::path& folder = "/usr/share/common-licenses") {
    // Links are the newest version of a licence under a second name.
    const auto original = [](const std::filesystem::directory_entry& file) {
        std::error_code ignored;
        return !file.is_symlink(ignored);
    };
    return read_folder(folder, "the installed licences", original, options);
}

/// The modules of package perl-base, which lie below the folder of the machine's kind.
inline corpus read_perl(const corpus_options& options = {},
                        const std::filesystem::path& library = "/usr/lib") {
    namespace fs = std::filesystem;
    std::vector<fs::path> found;
    std::error_code failure, ignored;
    for (fs::directory_iterator at(library, failure), end; !failure && at != end; at.increment(failure)) {
        if (fs::is_directory(at->path() / "perl-base", ignored)) found.push_back(at->path() / "perl-base");
    }
    const fs::path folder =
        found.empty() ? library / "perl-base" : *std::min_element(found.begin(), found.end());
    // warnings.pm is one table of bits.
    const auto is_code = [](const fs::directory_entry& file) {
        return file.path().extension() == ".pm" && file.path().filename() != "warnings.pm";
    };
    return read_folder(folder, "the installed Perl modules", is_code, options);
}

}  // namespace support
