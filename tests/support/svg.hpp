#pragma once

// Whether a picture is one.

#include <string>
#include <string_view>
#include <vector>

namespace mox_test {

inline bool has(std::string_view text, std::string_view part) {
    return text.find(part) != std::string_view::npos;
}

/// Tags nest, attributes are quoted, no bare '<' or '&', no number that is not one.
inline bool well_formed(const std::string& svg) {
    std::vector<std::string> open;
    for (std::size_t i = 0; i < svg.size(); ++i) {
        if (svg[i] == '&') {
            const std::size_t end = svg.find(';', i);
            if (end == std::string::npos || end - i > 6) return false;
        }
        if (svg[i] != '<') continue;
        std::size_t end = i + 1;
        bool quoted = false;
        for (; end < svg.size() && (quoted || svg[end] != '>'); ++end) {
            if (svg[end] == '<') return false;
            if (svg[end] == '"') quoted = !quoted;
        }
        if (end >= svg.size()) return false;
        const std::string tag = svg.substr(i + 1, end - i - 1);
        if (tag[0] == '/') {
            if (open.empty() || open.back() != tag.substr(1)) return false;
            open.pop_back();
        } else if (tag.back() != '/') {
            open.push_back(tag.substr(0, tag.find_first_of(" \n")));
        }
        i = end;
    }
    return open.empty() && svg.starts_with("<svg ") && !has(svg, "nan") && !has(svg, "inf");
}

}  // namespace mox_test
