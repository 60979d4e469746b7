#pragma once

// One table in two forms: aligned for people, CSV with raw numbers for programs.

#include <algorithm>
#include <cmath>
#include <concepts>
#include <filesystem>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "files.hpp"
#include "format.hpp"
#include "text.hpp"

namespace support {

/// How a column shows its numbers. The CSV always holds the number itself.
enum class show {
    text,     ///< left-aligned words
    number,   ///< fixed decimals
    human,    ///< 1.9 M, 12.3 k
    percent,  ///< 0.125 is 12.5 %
    seconds,  ///< 58.2 s, 2 min 05 s
};

struct column {
    std::string title;
    show as = show::text;
    int decimals = 1;       ///< of number and percent
    std::string unit = {};  ///< stands behind every number
    std::string key = {};   ///< the name in the CSV; empty: the title
};

/// A word, a number, or nothing: an empty cell is "-" for people and empty in the CSV.
class cell {
public:
    cell() = default;
    template <class T>
    requires std::is_arithmetic_v<T> cell(T number) : value_(static_cast<double>(number)) {}
    template <class T>
    requires std::convertible_to<T, std::string_view> cell(const T& word)
        : value_(std::string(std::string_view(word))) {}

    const std::string* word() const { return std::get_if<std::string>(&value_); }
    const double* number() const {
        const double* n = std::get_if<double>(&value_);
        return n != nullptr && std::isfinite(*n) ? n : nullptr;
    }

private:
    std::variant<std::monostate, std::string, double> value_;
};

/// A field as RFC 4180 wants it: quoted where it holds a comma, a quote or a line break.
inline std::string csv_field(std::string_view text) {
    if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
    std::string out = "\"";
    for (const char c : text) out.append(c == '"' ? 2 : 1, c);
    return out + '"';
}

class table {
public:
    explicit table(std::vector<column> columns) : columns_(std::move(columns)) {}

    void add(std::vector<cell> row) {
        if (row.size() != columns_.size()) {
            throw std::invalid_argument("support::table::add: a row has " + std::to_string(row.size()) +
                                        " cells, but the table " + std::to_string(columns_.size()) +
                                        " columns");
        }
        rows_.push_back(std::move(row));
    }

    /// For a terminal, every line ending with a newline.
    std::string text() const {
        std::vector<std::vector<std::string>> lines(1);
        for (const column& c : columns_) lines[0].push_back(printable(c.title));
        for (const auto& row : rows_) {
            lines.emplace_back();
            for (std::size_t i = 0; i < row.size(); ++i) lines.back().push_back(shown(row[i], columns_[i]));
        }
        std::vector<std::size_t> widths(columns_.size(), 0);
        for (const auto& line : lines) {
            for (std::size_t i = 0; i < line.size(); ++i) {
                widths[i] = std::max(widths[i], display_width(line[i]));
            }
        }
        std::vector<std::string> rule;
        for (const std::size_t w : widths) rule.emplace_back(w, '-');
        lines.insert(lines.begin() + 1, rule);

        std::string out;
        for (const auto& line : lines) {
            std::string text;
            for (std::size_t i = 0; i < line.size(); ++i) {
                if (i > 0) text += "  ";
                const std::string gap(widths[i] - display_width(line[i]), ' ');
                text += columns_[i].as == show::text ? line[i] + gap : gap + line[i];
            }
            text.erase(text.find_last_not_of(' ') + 1);
            (out += text) += '\n';
        }
        return out;
    }

    /// RFC 4180: a header line, CRLF after every line.
    std::string csv() const {
        std::string out;
        for (std::size_t i = 0; i < columns_.size(); ++i) {
            const column& c = columns_[i];
            (out += i == 0 ? "" : ",") += csv_field(c.key.empty() ? c.title : c.key);
        }
        out += "\r\n";
        for (const auto& row : rows_) {
            for (std::size_t i = 0; i < row.size(); ++i) {
                if (i > 0) out += ',';
                if (const double* number = row[i].number()) out += exact(*number);
                if (const std::string* word = row[i].word()) out += csv_field(*word);
            }
            out += "\r\n";
        }
        return out;
    }

    void write_csv(const std::filesystem::path& path) const { write_file(path, csv()); }

private:
    static std::string shown(const cell& value, const column& c) {
        if (const std::string* word = value.word()) return printable(*word);
        const double* number = value.number();
        if (number == nullptr) return "-";
        switch (c.as) {
        case show::human:
            return human(*number, c.unit);
        case show::percent:
            return fixed(*number * 100, c.decimals) + " %";
        case show::seconds:
            return human_seconds(*number);
        case show::text:
        case show::number:
            break;
        }
        const std::string text = c.as == show::text ? exact(*number) : fixed(*number, c.decimals);
        return c.unit.empty() ? text : text + ' ' + c.unit;
    }

    std::vector<column> columns_;
    std::vector<std::vector<cell>> rows_;
};

}  // namespace support
