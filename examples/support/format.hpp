#pragma once

// Numbers for people: fixed decimals, units such as 1.9 M, durations. Independent of the locale.

#include <array>
#include <charconv>
#include <cmath>
#include <string>
#include <string_view>

namespace support {

/// `value` with exactly `decimals` digits after the point.
inline std::string fixed(double value, int decimals) {
    std::array<char, 400> text{};  // the largest double has 309 digits before the point
    const auto end = std::to_chars(text.data(), text.data() + text.size(), value == 0 ? 0.0 : value,
                                   std::chars_format::fixed, decimals);
    std::string out(text.data(), end.ptr);
    if (out.starts_with('-') && out.find_first_of("123456789fn") == std::string::npos) out.erase(0, 1);
    return out;  // no minus in front of a rounded zero
}

/// The shortest text that reads back as the same number.
inline std::string exact(double value) {
    std::array<char, 32> text{};
    const auto end = std::to_chars(text.data(), text.data() + text.size(), value);
    return {text.data(), end.ptr};
}

/// 1.9 M, 12.3 k, 870; with a unit 12.3 k tokens/s.
inline std::string human(double value, std::string_view unit = {}) {
    if (!std::isfinite(value)) return "-";
    constexpr std::array<std::string_view, 9> prefix{"", "k", "M", "G", "T", "P", "E", "Z", "Y"};
    std::size_t step = 0;
    double scaled = value;
    while (std::abs(scaled) >= (step == 0 ? 999.5 : 999.95) && step + 1 < prefix.size()) {
        scaled /= 1000;
        ++step;
    }
    const double size = std::abs(scaled);
    const int decimals = step > 0 ? 1 : scaled == std::round(scaled) ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
    std::string out = fixed(scaled, decimals);
    if (step > 0) (out += ' ') += prefix[step];
    if (!unit.empty()) (out += ' ') += unit;
    return out;
}

/// 3.8 MB, 870 bytes. Decimal units, as disks and `ls -h --si` count.
inline std::string human_bytes(double bytes) {
    if (std::abs(bytes) < 999.5) return fixed(bytes, 0) + (bytes == 1 ? " byte" : " bytes");
    std::string text = human(bytes);
    if (text.ends_with(".0 " + text.substr(text.size() - 1))) text.erase(text.size() - 4, 2);
    return text + 'B';  // "64 MB" rather than "64.0 MB": limits are round
}

/// 0.42 s, 12.3 s, 2 min 05 s, 1 h 07 min.
inline std::string human_seconds(double seconds) {
    if (!std::isfinite(seconds) || seconds < 0 || seconds >= 1e15) return "-";
    if (seconds < 9.995) return fixed(seconds, 2) + " s";
    if (seconds < 99.95) return fixed(seconds, 1) + " s";
    const auto two = [](long long n) { return (n < 10 ? "0" : "") + std::to_string(n); };
    const long long whole = std::llround(seconds);
    if (whole < 3600) return std::to_string(whole / 60) + " min " + two(whole % 60) + " s";
    const long long minutes = std::llround(seconds / 60);
    return std::to_string(minutes / 60) + " h " + two(minutes % 60) + " min";
}

}  // namespace support
