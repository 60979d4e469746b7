#pragma once

// Text of unknown origin: UTF-8 decoding, width in a terminal, and escaping.

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>

namespace support {

/// One step through bytes: a code point and its length, or `valid == false` and a length of one byte.
struct code_point {
    char32_t value = 0;
    std::size_t bytes = 1;
    bool valid = false;
};

/// Decodes the sequence that starts at `at`; overlong forms, surrogates and cut sequences are not valid.
inline code_point decode_utf8(std::string_view text, std::size_t at) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char lead = byte(at);
    if (lead < 0x80) return {lead, 1, true};
    const std::size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (lead < 0xC2 || lead > 0xF4 || at + length > text.size()) return {};
    char32_t value = lead & (0x7Fu >> length);
    for (std::size_t i = 1; i < length; ++i) {
        if ((byte(at + i) & 0xC0) != 0x80) return {};
        value = (value << 6) | (byte(at + i) & 0x3Fu);
    }
    constexpr std::array<char32_t, 5> smallest{0, 0, 0x80, 0x800, 0x10000};
    if (value < smallest[length] || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) return {};
    return {value, length, true};
}

struct code_range {
    char32_t first, last;
};

template <std::size_t N>
bool in_ranges(char32_t c, const std::array<code_range, N>& ranges) {
    return std::any_of(ranges.begin(), ranges.end(),
                       [c](const code_range& r) { return c >= r.first && c <= r.last; });
}

/// Whether a code point draws something of its own. Controls, direction marks and other invisible or
/// combining characters do not: shown raw they would hide or rearrange what stands next to them.
inline bool is_visible(char32_t c) {
    constexpr std::array<code_range, 22> hidden{{
        {0x00, 0x20},     {0x7F, 0xA0},     {0xAD, 0xAD},     {0x0300, 0x036F}, {0x0483, 0x0489},
        {0x0591, 0x05C7}, {0x0610, 0x061C}, {0x064B, 0x065F}, {0x1160, 0x11FF}, {0x1680, 0x1680},
        {0x180B, 0x180F}, {0x1AB0, 0x1AFF}, {0x1DC0, 0x1DFF}, {0x2000, 0x200F}, {0x2028, 0x202F},
        {0x205F, 0x206F}, {0x20D0, 0x20FF}, {0x3000, 0x3000}, {0xE000, 0xF8FF}, {0xFE00, 0xFE0F},
        {0xFE20, 0xFE2F}, {0xFEFF, 0xFEFF},
    }};
    const bool special = (c >= 0xFFF0 && c <= 0xFFFB) || (c & 0xFFFE) == 0xFFFE || c >= 0xE0000;
    return !special && !in_ranges(c, hidden);
}

/// Columns a code point takes in a terminal.
inline std::size_t display_width(char32_t c) {
    constexpr std::array<code_range, 11> wide{{
        {0x1100, 0x115F},
        {0x2E80, 0x303E},
        {0x3041, 0x33FF},
        {0x3400, 0x4DBF},
        {0x4E00, 0x9FFF},
        {0xA000, 0xA4CF},
        {0xAC00, 0xD7A3},
        {0xF900, 0xFAFF},
        {0xFE30, 0xFE6F},
        {0xFF00, 0xFF60},
        {0x1F300, 0x1FAFF},
    }};
    if (c == 0x20 || c == 0xA0) return 1;
    if (in_ranges(c, wide) || (c >= 0x20000 && c <= 0x3FFFD)) return 2;
    return is_visible(c) ? 1 : 0;
}

/// The text with everything replaced that a terminal could take as a command, and invalid UTF-8 marked.
inline std::string printable(std::string_view text) {
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
        const code_point c = decode_utf8(text, at);
        const bool command = !c.valid || c.value < 0x20 || (c.value >= 0x7F && c.value < 0xA0) ||
                             (c.value >= 0x202A && c.value <= 0x202E) ||
                             (c.value >= 0x2066 && c.value <= 0x2069);
        if (command) {
            out += "\xEF\xBF\xBD";  // U+FFFD
        } else {
            out += text.substr(at, c.bytes);
        }
        at += c.bytes;
    }
    return out;
}

/// Columns that `printable(text)` takes in a terminal.
inline std::size_t display_width(std::string_view text) {
    const std::string shown = printable(text);
    std::size_t width = 0;
    for (std::size_t at = 0; at < shown.size();) {
        const code_point c = decode_utf8(shown, at);
        width += c.value == 0xFFFD ? 1 : display_width(c.value);
        at += c.bytes;
    }
    return width;
}

/// `printable`, but line breaks stay.
inline std::string printable_lines(std::string_view text) {
    std::string out;
    for (std::size_t at = 0;;) {
        const std::size_t end = std::min(text.find('\n', at), text.size());
        out += printable(text.substr(at, end - at));
        if (end == text.size()) return out;
        out += '\n';
        at = end + 1;
    }
}

/// For text and attribute values of XML and HTML alike.
inline std::string escape_markup(std::string_view text) {
    std::string out;
    for (const char c : printable(text)) {
        switch (c) {
        case '&':
            out += "&amp;";
            break;
        case '<':
            out += "&lt;";
            break;
        case '>':
            out += "&gt;";
            break;
        case '"':
            out += "&quot;";
            break;
        case '\'':
            out += "&#39;";
            break;
        default:
            out += c;
        }
    }
    return out;
}

/// A JavaScript string literal that cannot end the script element around it.
inline std::string script_literal(std::string_view text) {
    std::string out = "\"";
    for (const char c : printable(text)) {
        switch (c) {
        case '"':
            out += "\\\"";
            break;
        case '\\':
            out += "\\\\";
            break;
        case '<':
            out += "\\u003c";
            break;
        case '>':
            out += "\\u003e";
            break;
        case '&':
            out += "\\u0026";
            break;
        default:
            out += c;
        }
    }
    return out + '"';  // U+2028 and U+2029 are allowed in literals since 2019
}

}  // namespace support
