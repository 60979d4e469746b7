#pragma once

// A folder for a test's files.

#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#include "../../examples/support/files.hpp"

namespace mox_test {

/// A folder of its own that disappears with the test.
struct scratch {
    std::filesystem::path path;

    scratch() {
        for (int i = 0;; ++i) {
            path = std::filesystem::temp_directory_path() / ("mox_test_" + std::to_string(i));
            if (std::filesystem::create_directory(path)) return;
        }
    }
    ~scratch() {
        std::error_code ignored;
        std::filesystem::remove_all(path, ignored);
    }
    scratch(const scratch&) = delete;
    scratch& operator=(const scratch&) = delete;

    /// Writes a file, with the folders it needs.
    std::filesystem::path file(const std::string& name, std::string_view contents) const {
        std::filesystem::create_directories((path / name).parent_path());
        support::write_file(path / name, contents);
        return path / name;
    }
};

}  // namespace mox_test
