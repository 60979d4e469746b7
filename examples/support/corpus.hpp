#pragma once

// The text to learn: bytes of files, split into a training and a validation part.

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <ios>
#include <span>
#include <string>
#include <vector>

#include "errors.hpp"
#include "files.hpp"
#include "format.hpp"

namespace support {

struct corpus_options {
    std::size_t minimum_bytes = 20'000;      ///< less is an error
    std::size_t minimum_validation = 2'000;  ///< the validation part has at least this many bytes
    std::size_t limit_bytes = 64'000'000;    ///< of a longer text only the beginning is read
};

/// Bytes of one or several files, one after the other, without anything between them.
struct corpus {
    std::vector<unsigned char> bytes;
    std::size_t training_bytes = 0;
    std::size_t files = 0;  ///< that gave at least one byte
    std::size_t limit_bytes = 0;
    bool limited = false;  ///< there was more than `limit_bytes`
    std::string source;    ///< what the text is, for people

    std::span<const unsigned char> training() const { return {bytes.data(), training_bytes}; }
    std::span<const unsigned char> validation() const { return std::span(bytes).subspan(training_bytes); }

    /// One line: 'a.txt': 1.2 MB, of which 1.1 MB for training and 120 kB for validation
    std::string describe() const {
        const auto size = [](std::size_t n) { return human_bytes(static_cast<double>(n)); };
        return source + (files > 1 ? ", " + std::to_string(files) + " files: " : ": ") +
               (limited ? "the first " : "") + size(bytes.size()) + ", of which " + size(training_bytes) +
               " for training and " + size(bytes.size() - training_bytes) + " for validation";
    }
};

namespace detail {

/// Appends a file; stops at the limit and says in `text.limited` whether something was left over. Reads in
/// pieces, so that pipes work and a file larger than the memory does no harm.
inline void append_file(corpus& text, const std::filesystem::path& path) {
    const auto refuse = [&](const std::string& why) { throw input_error(quoted(path) + " " + why); };
    std::error_code failure;
    const auto status = std::filesystem::status(path, failure);
    if (!std::filesystem::exists(status)) {
        const bool missing = status.type() == std::filesystem::file_type::not_found;
        refuse(missing ? "does not exist." : "cannot be reached: " + failure.message() + ".");
    }
    if (std::filesystem::is_directory(status)) refuse("is a folder, but a file is needed.");
    std::ifstream in(path, std::ios::binary);
    if (!in) refuse("cannot be opened: is reading it allowed?");

    std::array<char, 1 << 16> piece{};
    std::size_t total = 0;
    while (in && !text.limited) {
        in.read(piece.data(), static_cast<std::streamsize>(piece.size()));
        const std::size_t got = static_cast<std::size_t>(in.gcount());
        const std::size_t room = text.limit_bytes - text.bytes.size();
        text.limited = got > room;
        text.bytes.insert(text.bytes.end(), piece.begin(), piece.begin() + std::min(got, room));
        total += got;
    }
    if (in.bad()) refuse("could not be read to its end.");
    if (total == 0) refuse("is empty.");
    ++text.files;
}

/// Checks the length and places the border between training and validation.
inline void split(corpus& text, const corpus_options& options) {
    const std::size_t found = text.bytes.size();
    // Both parts must hold something, whatever the caller asks for.
    const std::size_t needed = std::max(options.minimum_bytes, 2 * options.minimum_validation);
    if (found < needed) {
        throw input_error(text.source + (text.files > 1 ? " have together " : " has ") +
                          std::to_string(found) + (found == 1 ? " byte" : " bytes") + ", but at least " +
                          std::to_string(needed) + " bytes are needed.");
    }
    text.training_bytes = found - std::max(found / 10, options.minimum_validation);
}

}  // namespace detail

/// Reads files, in the given order. Throws `input_error` with one sentence that names the file.
inline corpus read_files(std::span<const std::filesystem::path> paths, const corpus_options& options = {}) {
    corpus text;
    text.limit_bytes = options.limit_bytes;
    for (std::size_t i = 0; i < paths.size() && !text.limited; ++i) detail::append_file(text, paths[i]);
    for (std::size_t i = 0; i < std::min<std::size_t>(paths.size(), 3); ++i) {
        text.source += (i == 0 ? "" : ", ") + quoted(paths[i]);
    }
    if (paths.size() > 3) text.source += " and " + std::to_string(paths.size() - 3) + " more";
    detail::split(text, options);
    return text;
}

/// Reads the files below `folder` that `wanted(directory entry)` picks, in the order of their paths, so that
/// one version of a package gives the same bytes on every machine. `name` says what they are.
template <class Wanted>
corpus read_folder(const std::filesystem::path& folder, const std::string& name, Wanted&& wanted,
                   corpus_options options = {}) {
    namespace fs = std::filesystem;
    const auto refuse = [&](const std::string& why) {
        throw input_error("Without FILE the text is " + name + ", but " + why + "; name a FILE instead.");
    };
    std::error_code failure;
    if (!fs::is_directory(folder, failure)) refuse("the folder " + quoted(folder) + " is not there");

    std::vector<std::string> names;  // generic form: the same order with either kind of slash
    const auto skip = fs::directory_options::skip_permission_denied;
    for (fs::recursive_directory_iterator at(folder, skip, failure), end; at != end && !failure;
         at.increment(failure)) {
        std::error_code ignored;
        if (wanted(*at) && at->is_regular_file(ignored) && at->file_size(ignored) > 0) {
            names.push_back(at->path().lexically_relative(folder).generic_string());
        }
    }
    if (failure) refuse("the folder " + quoted(folder) + " cannot be read: " + failure.message());
    if (names.empty()) refuse("the folder " + quoted(folder) + " holds none of them");
    std::sort(names.begin(), names.end());

    corpus text;
    options.limit_bytes = std::min<std::size_t>(options.limit_bytes, 4'000'000);
    text.limit_bytes = options.limit_bytes;
    text.source = name;
    for (std::size_t i = 0; i < names.size() && !text.limited; ++i) {
        detail::append_file(text, folder / names[i]);
    }
    detail::split(text, options);
    return text;
}

/// Reads the headers below `folder`.
inline corpus read_headers(const std::filesystem::path& folder, const std::string& name,
                           corpus_options options = {}) {
    const auto is_header = [](const std::filesystem::directory_entry& file) {
        const std::string extension = file.path().extension().string();
        return extension.empty() || extension == ".h" || extension == ".hpp";
    };
    return read_folder(folder, name, is_header, options);
}

}  // namespace support
