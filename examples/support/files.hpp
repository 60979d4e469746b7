#pragma once

// Writing result files.

#include <filesystem>
#include <fstream>
#include <ios>
#include <string>
#include <string_view>

#include "errors.hpp"
#include "text.hpp"

namespace support {

/// A path as a sentence names it.
inline std::string quoted(const std::filesystem::path& path) { return "'" + printable(path.string()) + "'"; }

/// Makes sure that results can be written into `folder`: worth calling before hours of work.
inline void prepare_folder(const std::filesystem::path& folder) {
    std::error_code failure;
    std::filesystem::create_directories(folder, failure);
    if (!std::filesystem::is_directory(folder)) {
        throw output_error("The folder " + quoted(folder) + " cannot be created" +
                           (failure ? ": " + failure.message() + "." : "."));
    }
    const std::filesystem::path probe = folder / ".write_probe";
    const bool writable = static_cast<bool>(std::ofstream(probe));
    std::filesystem::remove(probe, failure);
    if (!writable) throw output_error("The folder " + quoted(folder) + " does not allow new files.");
}

/// Replaces the file's contents.
inline void write_file(const std::filesystem::path& path, std::string_view contents) {
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out.write(contents.data(), static_cast<std::streamsize>(contents.size()));
    out.flush();
    if (!out) throw output_error("The file " + quoted(path) + " cannot be written.");
}

}  // namespace support
