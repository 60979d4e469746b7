#pragma once

// A picture of pixels with a few words on it, written as PNG (libpng).

#include <array>
#include <cctype>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <png.h>

#include "files.hpp"

namespace support {

struct rgb {
    std::uint8_t r = 0, g = 0, b = 0;
};

class picture {
public:
    picture(std::size_t width, std::size_t height, rgb background = {255, 255, 255})
        : width_(width), height_(height), pixels_(width * height, background) {}

    std::size_t width() const { return width_; }
    std::size_t height() const { return height_; }

    /// Pixels outside the picture are ignored.
    void set(std::size_t x, std::size_t y, rgb colour) {
        if (x < width_ && y < height_) pixels_[y * width_ + x] = colour;
    }

    void fill(std::size_t x, std::size_t y, std::size_t w, std::size_t h, rgb colour) {
        for (std::size_t r = y; r < y + h; ++r) {
            for (std::size_t c = x; c < x + w; ++c) set(c, r, colour);
        }
    }

    /// Capitals, digits and a little punctuation; a letter takes 4 x 6 squares of `scale` pixels.
    void text(std::size_t x, std::size_t y, std::string_view words, std::size_t scale, rgb colour) {
        for (const char c : words) {
            const std::uint16_t bits = glyph(c);
            for (std::size_t i = 0; i < 15; ++i) {
                if (bits >> (14 - i) & 1) fill(x + i % 3 * scale, y + i / 3 * scale, scale, scale, colour);
            }
            x += 4 * scale;
        }
    }

    void write(const std::filesystem::path& path) const {
        png_image image;
        std::memset(&image, 0, sizeof image);
        image.version = PNG_IMAGE_VERSION;
        image.width = static_cast<png_uint_32>(width_);
        image.height = static_cast<png_uint_32>(height_);
        image.format = PNG_FORMAT_RGB;
        static_assert(sizeof(rgb) == 3);
        if (!png_image_write_to_file(&image, path.string().c_str(), 0, pixels_.data(), 0, nullptr)) {
            throw output_error("The picture " + quoted(path) + " cannot be written: " + image.message + ".");
        }
    }

private:
    // Five rows of three squares, top left first.
    static std::uint16_t glyph(char c) {
        constexpr std::string_view known = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.%:";
        constexpr std::array<std::uint16_t, 40> shapes{
            0b010101111101101, 0b110101110101110, 0b011100100100011, 0b110101101101110, 0b111100110100111,
            0b111100110100100, 0b011100101101011, 0b101101111101101, 0b111010010010111, 0b001001001101010,
            0b101101110101101, 0b100100100100111, 0b101111111101101, 0b110101101101101, 0b010101101101010,
            0b110101110100100, 0b010101101111011, 0b110101110101101, 0b011100010001110, 0b111010010010010,
            0b101101101101111, 0b101101101101010, 0b101101111111101, 0b101101010101101, 0b101101010010010,
            0b111001010100111, 0b111101101101111, 0b010110010010111, 0b110001010100111, 0b110001010001110,
            0b101101111001001, 0b111100110001110, 0b011100111101111, 0b111001010010010, 0b111101111101111,
            0b111101111001110, 0b000000111000000, 0b000000000000010, 0b101001010100101, 0b000010000010000};
        const auto at = known.find(static_cast<char>(std::toupper(static_cast<unsigned char>(c))));
        return at == std::string_view::npos ? std::uint16_t{0} : shapes[at];
    }

    std::size_t width_, height_;
    std::vector<rgb> pixels_;
};

}  // namespace support
