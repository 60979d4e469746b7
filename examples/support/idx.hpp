#pragma once

// Images and labels in the IDX format of MNIST: big-endian sizes, then bytes. Files come from outside, so
// every number is checked before it is believed.

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "errors.hpp"
#include "files.hpp"

namespace support {

struct image_set {
    std::size_t side = 0;              ///< images are square
    std::vector<std::uint8_t> pixels;  ///< count x side x side, row by row
    std::vector<std::uint8_t> labels;  ///< 0 to 9, one per image

    std::size_t count() const { return labels.size(); }
    const std::uint8_t* image(std::size_t i) const { return pixels.data() + i * side * side; }
};

namespace detail {

inline std::vector<std::uint8_t> read_bytes(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in || std::filesystem::is_directory(path)) {
        throw input_error("The file " + quoted(path) + " cannot be read.");
    }
    constexpr std::uintmax_t most = std::uintmax_t{1} << 30;
    std::error_code failure;
    if (std::filesystem::file_size(path, failure) > most || failure) {
        throw input_error("The file " + quoted(path) + " is not a plain file of at most 1 GB.");
    }
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// The sizes behind the magic number; `dimensions` of them, and exactly as many bytes as they promise.
inline std::vector<std::size_t> idx_sizes(const std::vector<std::uint8_t>& bytes, std::size_t dimensions,
                                          const std::filesystem::path& path, const std::string& what) {
    const auto number = [&](std::size_t at) {
        return std::size_t{bytes[at]} << 24 | std::size_t{bytes[at + 1]} << 16 |
               std::size_t{bytes[at + 2]} << 8 | std::size_t{bytes[at + 3]};
    };
    const std::size_t header = 4 + 4 * dimensions;
    if (bytes.size() < header || number(0) != (0x0800u | dimensions)) {
        throw input_error("The file " + quoted(path) + " does not hold " + what + " in the IDX format.");
    }
    std::vector<std::size_t> sizes;
    std::size_t total = 1;
    for (std::size_t d = 0; d < dimensions; ++d) {
        sizes.push_back(number(4 + 4 * d));
        // More than the file could hold is damaged, whatever the other sizes say; so nothing overflows.
        if (total > 0 && sizes.back() > bytes.size() / total) {
            total = bytes.size() + 1;
            break;
        }
        total *= sizes.back();
    }
    if (total != bytes.size() - header) {
        throw input_error("The file " + quoted(path) + " is damaged: its header and its length (" +
                          std::to_string(bytes.size()) + " bytes) do not agree.");
    }
    return sizes;
}

}  // namespace detail

/// The images of one file and the labels of another: square images, at least one, labels 0 to 9.
inline image_set read_idx(const std::filesystem::path& images, const std::filesystem::path& labels) {
    const auto image_bytes = detail::read_bytes(images), label_bytes = detail::read_bytes(labels);
    const auto shape = detail::idx_sizes(image_bytes, 3, images, "images");
    const auto count = detail::idx_sizes(label_bytes, 1, labels, "labels");
    if (shape[0] != count[0] || shape[0] == 0) {
        throw input_error("The files " + quoted(images) + " and " + quoted(labels) +
                          " must hold the same number of images and labels, but hold " +
                          std::to_string(shape[0]) + " and " + std::to_string(count[0]) + ".");
    }
    if (shape[1] != 28 || shape[2] != 28) {
        throw input_error("The images in " + quoted(images) + " must have 28 x 28 pixels, but have " +
                          std::to_string(shape[1]) + " x " + std::to_string(shape[2]) + ".");
    }
    image_set set;
    set.side = shape[1];
    set.pixels.assign(image_bytes.begin() + 16, image_bytes.end());
    set.labels.assign(label_bytes.begin() + 8, label_bytes.end());
    for (const std::uint8_t label : set.labels) {
        if (label > 9) {
            throw input_error("The file " + quoted(labels) + " holds the label " + std::to_string(label) +
                              "; digits have 0 to 9.");
        }
    }
    return set;
}

}  // namespace support
