#pragma once

// How often each row (a text) uses each column (an expert or a rank), as coloured cells: an SVG with one
// panel per network, in it one line per layer, in it one strip of cells per map of the layer.

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "files.hpp"
#include "format.hpp"
#include "text.hpp"

namespace support {

struct heat_strip {
    std::string title;                      ///< of the map; shown above the first line
    std::vector<std::vector<double>> rows;  ///< [row][column]: 1 is even use; NaN leaves a cell out
};

struct heat_layer {
    std::string label;
    std::vector<heat_strip> strips;
};

struct heat_panel {
    std::string title, note;  ///< the note stands behind the title
    std::string columns;      ///< what a column is: "expert", "rank"
    std::vector<heat_layer> layers;
};

struct heat_map {
    std::string title;
    std::vector<std::string> caption;  ///< lines
    std::vector<std::string> rows;     ///< their names
    std::string unit;                  ///< what the colours mean
    std::vector<heat_panel> panels;
};

namespace detail {

class heat_writer {
public:
    explicit heat_writer(const heat_map& data) : data_(data) {
        lines_ = 1;
        for (const heat_panel& p : data.panels) {
            for (const heat_layer& l : p.layers) {
                for (const heat_strip& s : l.strips) lines_ = std::max(lines_, s.rows.size());
            }
        }
    }

    std::string svg() {
        double y = 66 + 20 * static_cast<double>(data_.caption.size());
        std::string body;
        legend(body, y);
        y += 44;
        for (const heat_panel& p : data_.panels) panel(body, p, y);
        if (data_.panels.empty()) {
            text(body, 24, y + 14, "no data", muted);
            y += 40;
        }
        std::string out =
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + exact(width) + "\" height=\"" +
            fixed(y, 0) + "\" viewBox=\"0 0 " + exact(width) + ' ' + fixed(y, 0) +
            "\" role=\"img\" font-size=\"13\" fill=\"#24292f\" font-family=\"system-ui, "
            "-apple-system, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif\">\n";
        out += "<title>" + escape_markup(data_.title) + "</title>\n";
        out += "<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#ffffff\"/>\n";
        text(out, 24, 38, data_.title, "font-size=\"21\" font-weight=\"600\"");
        for (std::size_t i = 0; i < data_.caption.size(); ++i) {
            text(out, 24, 62 + 20 * static_cast<double>(i), data_.caption[i], muted);
        }
        return out + body + "</svg>\n";
    }

    /// 0 to levels - 1 for 0 to twice the even use.
    static std::size_t level(double value) {
        const double place = std::clamp(value / 2, 0.0, 1.0) * static_cast<double>(levels - 1);
        return static_cast<std::size_t>(std::lround(place));
    }
    static std::string_view colour(std::size_t l) {
        // One hue from nearly white to dark, even in lightness: readable in grey, too.
        constexpr std::array<std::string_view, 9> shades{"#f3f6fa", "#dbe6f1", "#bfd4e8",
                                                         "#9dc0de", "#76a8d1", "#4f8dc0",
                                                         "#3070a9", "#1a528a", "#0b3563"};
        static_assert(shades.size() == levels);
        return shades[l];
    }

private:
    static constexpr std::size_t levels = 9;
    static constexpr double width = 1280, left = 186, right = 24, between = 18, cell = 12;
    static constexpr double strip_width = (width - left - right - 3 * between) / 4;
    static constexpr std::string_view muted = "fill=\"#57606a\"";

    void legend(std::string& out, double y) {
        constexpr double x = 24, step = 26;
        for (std::size_t l = 0; l < levels; ++l) {
            out += "<rect x=\"" + fixed(x + step * static_cast<double>(l), 1) + "\" y=\"" + fixed(y, 1) +
                   "\" width=\"26\" height=\"12\" fill=\"" + std::string(colour(l)) + "\"/>\n";
        }
        constexpr double scale = step * (levels - 1) / 2;
        for (int i = 0; i <= 2; ++i) {
            text(out, x + step / 2 + scale * i, y + 27, i == 2 ? "2 or more" : std::to_string(i),
                 "text-anchor=\"middle\" fill=\"#57606a\"");
        }
        text(out, x + step * levels + 28, y + 10.5, data_.unit, "");
    }

    void panel(std::string& out, const heat_panel& p, double& y) {
        text(out, 24, y + 14, p.title, "font-size=\"15\" font-weight=\"600\"");
        const double behind = std::max(left, 24 + 11 * static_cast<double>(display_width(p.title)) + 12);
        text(out, behind, y + 14, p.note, muted);
        y += 26;
        if (p.layers.empty()) {
            text(out, 24, y + 12, "no data", muted);
            y += 30;
            return;
        }
        // Equal strips in a line, four of them at most as wide as the picture.
        const auto strip_x = [](std::size_t i) {
            return left + static_cast<double>(i) * (strip_width + between);
        };
        for (std::size_t i = 0; i < p.layers[0].strips.size(); ++i) {
            text(out, strip_x(i), y + 10, p.layers[0].strips[i].title, muted);
        }
        y += 17;
        const double line = cell * static_cast<double>(lines_);
        for (const heat_layer& layer : p.layers) {
            text(out, 24, y + line / 2 + 4.5, layer.label, "");
            for (std::size_t r = 0; r < std::min(lines_, data_.rows.size()); ++r) {
                text(out, left - 8, y + cell * static_cast<double>(r) + 9.5, data_.rows[r],
                     "text-anchor=\"end\" font-size=\"11\" fill=\"#57606a\"");
            }
            std::array<std::string, levels> cells;
            for (std::size_t i = 0; i < layer.strips.size(); ++i)
                strip(cells, layer.strips[i], strip_x(i), y);
            // All cells of a colour are one thick, interrupted line: that keeps the file small.
            for (std::size_t l = 0; l < levels; ++l) {
                if (cells[l].empty()) continue;
                out += "<path stroke=\"" + std::string(colour(l)) + "\" stroke-width=\"" +
                       fixed(cell - 1, 0) + "\" d=\"" + cells[l] + "\"/>\n";
            }
            y += line + 7;
        }
        for (std::size_t i = 0; i < p.layers.back().strips.size(); ++i) {
            const heat_strip& s = p.layers.back().strips[i];
            const std::size_t count = s.rows.empty() ? 0 : s.rows[0].size();
            if (count == 0) continue;
            text(out, strip_x(i), y + 8, p.columns + " 1", "font-size=\"11\" fill=\"#57606a\"");
            if (count == 1) continue;
            text(out, strip_x(i) + static_cast<double>(column_width(count) * count) - 1, y + 8,
                 std::to_string(count), "text-anchor=\"end\" font-size=\"11\" fill=\"#57606a\"");
        }
        y += 34;
    }

    // Whole pixels, so that cells look alike. Strips have room for 126 columns; more of them overlap.
    static std::size_t column_width(std::size_t columns) {
        return std::max<std::size_t>(2, static_cast<std::size_t>(strip_width) /
                                            std::max<std::size_t>(columns, 1));
    }

    static void strip(std::array<std::string, levels>& cells, const heat_strip& s, double x, double y) {
        for (std::size_t r = 0; r < s.rows.size(); ++r) {
            const std::size_t step = column_width(s.rows[r].size());
            const std::string length = std::to_string(step > 3 ? step - 1 : step);
            for (std::size_t c = 0; c < s.rows[r].size(); ++c) {
                const double value = s.rows[r][c];
                if (!std::isfinite(value)) continue;
                std::string& path = cells[level(value)];
                (path += 'M') += fixed(x + static_cast<double>(step * c), 0);
                (path += ' ') += fixed(y + cell * static_cast<double>(r) + cell / 2, 1);
                (path += 'h') += length;
            }
        }
    }

    static void text(std::string& out, double x, double y, std::string_view words, std::string_view style) {
        if (words.empty()) return;
        out += "<text x=\"" + fixed(x, 1) + "\" y=\"" + fixed(y, 1) + "\" " + std::string(style) + '>' +
               escape_markup(words) + "</text>\n";
    }

    const heat_map& data_;
    std::size_t lines_ = 1;  ///< rows of the tallest strip
};

}  // namespace detail

/// The whole picture as one SVG document.
inline std::string heat_map_svg(const heat_map& data) { return detail::heat_writer(data).svg(); }

inline void write_heat_map(const std::filesystem::path& path, const heat_map& data) {
    write_file(path, heat_map_svg(data));
}

}  // namespace support
