#pragma once

// The learning curves as a picture: an SVG with two panels that share colours and the vertical axis.

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "chart_axis.hpp"
#include "files.hpp"
#include "format.hpp"
#include "text.hpp"

namespace support {

/// One evaluation on the validation text.
struct chart_point {
    double seconds = 0;  ///< of training so far
    double flops = 0;    ///< of training so far
    double bits_per_byte = 0;
};

struct curve {
    std::string name;
    std::vector<chart_point> points;  ///< in the order of training; those with a NaN or infinity are left out
};

struct chart {
    std::string title;
    std::string caption;  ///< one sentence: what was trained, and how to read it
    std::vector<curve> curves;
};

namespace detail {

/// Okabe and Ito's colours, which people with any colour vision tell apart, after a dark grey for the
/// baseline.
inline std::string_view curve_colour(std::size_t index) {
    constexpr std::array<std::string_view, 8> colours{"#404040", "#0072b2", "#e69f00", "#009e73",
                                                      "#cc79a7", "#d55e00", "#56b4e9", "#7a4fa3"};
    return colours[index % colours.size()];
}

/// Text cut to about `width` pixels at 13 px.
inline std::string fit(std::string_view text, double width) {
    std::string out;
    const auto columns = static_cast<std::size_t>(width / 6.9);
    for (std::size_t at = 0; at < text.size();) {
        const code_point c = decode_utf8(text, at);
        out += text.substr(at, c.bytes);
        at += c.bytes;
        if (at < text.size() && display_width(out) + 1 >= columns) return out + "\u2026";
    }
    return out;
}

inline std::vector<std::string> wrap(std::string_view text, std::size_t columns) {
    std::vector<std::string> lines(1);
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t space = std::min(text.find(' ', at), text.size());
        const std::string word(text.substr(at, space - at));
        if (!lines.back().empty()) {
            const bool full = display_width(lines.back()) + 1 + display_width(word) > columns;
            full ? void(lines.emplace_back()) : void(lines.back() += ' ');
        }
        lines.back() += word;
        at = space + 1;
    }
    return lines;
}

class chart_writer {
public:
    explicit chart_writer(const chart& data) : data_(data) {
        for (const curve& c : data.curves) {
            curves_.push_back({printable(c.name), {}});
            for (const chart_point& p : c.points) {
                const auto usable = [](double v) { return std::abs(v) < 1e150; };  // false for NaN, too
                if (!usable(p.seconds) || !usable(p.flops) || !usable(p.bits_per_byte)) continue;
                const auto flush = [](double v) {
                    return std::abs(v) < 1e-150 ? 0.0 : v;
                };  // can be divided by
                curves_.back().points.push_back({flush(p.seconds), flush(p.flops), flush(p.bits_per_byte)});
            }
            longest_name_ = std::max(longest_name_, display_width(curves_.back().name));
        }
        margin_ = std::clamp(static_cast<double>(longest_name_) * 6.9 + 34, 60.0, 240.0);
        plot_width_ = (width - 2 * (left + margin_)) / 2;
    }

    std::string svg() {
        const std::vector<std::string> caption = wrap(data_.caption, 165);
        const std::size_t rows = (curves_.size() + columns - 1) / columns;
        const double legend = top + plot_height + 76;
        const double end = legend + 24 * static_cast<double>(rows) + 8;
        const double height = end + 20 * static_cast<double>(caption.size()) + 12;

        const std::string size = exact(width) + "\" height=\"" + exact(height);
        out_ = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + size + "\" viewBox=\"0 0 " +
               exact(width) + ' ' + exact(height) + "\" role=\"img\" font-size=\"13\" fill=\"#24292f\" " +
               "font-family=\"system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', "
               "sans-serif\">\n";
        out_ += "<title>" + escape_markup(data_.title) + "</title>\n";
        out_ += "<desc>" + escape_markup(data_.caption) + "</desc>\n";
        out_ += "<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#ffffff\"/>\n";
        text(24, 38, data_.title, "font-size=\"21\" font-weight=\"600\"");
        range();
        panel(left, "Validation loss against time", "training time", "s", &chart_point::seconds);
        panel(left + plot_width_ + margin_ + left, "Validation loss against computation",
              "training computation", "FLOPs", &chart_point::flops);
        for (std::size_t i = 0; i < curves_.size(); ++i) {
            const double step = (width - 48) / columns;
            legend_entry(24 + step * static_cast<double>(i / rows),
                         legend + 24 * static_cast<double>(i % rows), i);
        }
        for (std::size_t i = 0; i < caption.size(); ++i) {
            text(24, end + 20 * static_cast<double>(i + 1) - 8, caption[i], "fill=\"#57606a\"");
        }
        return out_ + "</svg>\n";
    }

private:
    static constexpr double width = 1280, left = 72, top = 92, plot_height = 350;
    static constexpr std::size_t columns = 2;

    /// The vertical range. The steep start of training would squeeze the rest flat: where it would, the frame
    /// begins after the first fifth of each curve and the note says so.
    void range() {
        double low = INFINITY, high = -INFINITY, late = -INFINITY;
        for (const curve& c : curves_) {
            const std::size_t start = c.points.size() >= 6 ? (c.points.size() + 4) / 5 : 0;
            for (std::size_t i = 0; i < c.points.size(); ++i) {
                const double value = c.points[i].bits_per_byte;
                low = std::min(low, value);
                high = std::max(high, value);
                if (i >= start) late = std::max(late, value);
            }
        }
        if (low > high) low = 0, high = 8, late = 8;  // no data: random bytes have eight bits
        const bool spans = low > 0 && high / low > 1000;
        cut_ = !spans && (high - late) > 0.25 * (high - low);
        y_ = axis::around(low, cut_ ? late : high);
    }

    void panel(double x0, std::string_view title, const std::string& quantity, const std::string& unit,
               double chart_point::*value);
    void direct_labels(double x0, const axis& x, double chart_point::*value);

    double y_pixel(double value) const { return top + plot_height * (1 - y_.position(value)); }

    /// Name, final loss, time and computation, aligned with the entries above and below.
    void legend_entry(double x, double y, std::size_t index) {
        const curve& c = curves_[index];
        line(x, y, x + 26, y, stroke(index));
        const double name = std::min(static_cast<double>(longest_name_) * 8 + 16, 250.0);
        text(x + 34, y + 4.5, fit(c.name, name * 0.88), "font-weight=\"600\"");
        if (c.points.empty()) return text(x + 34 + name, y + 4.5, "no data", "fill=\"#57606a\"");
        const chart_point& last = c.points.back();
        const double loss = last.bits_per_byte;
        const std::string value = std::abs(loss) < 1e4 ? fixed(loss, 3) : human(loss);
        text(x + 34 + name, y + 4.5, value + " bits/byte", "");
        text(x + 34 + name + 118, y + 4.5,
             "after " + human_seconds(last.seconds) + ", " + human(last.flops, "FLOPs"), "fill=\"#57606a\"");
    }

    static std::string stroke(std::size_t index) {
        constexpr std::array<std::string_view, 3> dashes{"", " stroke-dasharray=\"7 4\"",
                                                         " stroke-dasharray=\"2 3\""};
        return "stroke=\"" + std::string(curve_colour(index)) + "\" stroke-width=\"2.4\"" +
               std::string(dashes[index / 8 % dashes.size()]);
    }

    void text(double x, double y, std::string_view words, std::string_view style) {
        out_ += "<text x=\"" + fixed(x, 1) + "\" y=\"" + fixed(y, 1) + "\" " + std::string(style) + '>' +
                escape_markup(words) + "</text>\n";
    }

    void line(double x1, double y1, double x2, double y2, std::string_view style) {
        out_ += "<line x1=\"" + fixed(x1, 1) + "\" y1=\"" + fixed(y1, 1) + "\" x2=\"" + fixed(x2, 1) +
                "\" y2=\"" + fixed(y2, 1) + "\" " + std::string(style) + "/>\n";
    }

    const chart& data_;
    std::vector<curve> curves_;  ///< usable points only
    std::size_t longest_name_ = 0;
    double margin_ = 0, plot_width_ = 0;
    axis y_ = axis::around(0, 1);
    bool cut_ = false;
    std::string out_;
};

}  // namespace detail

/// The whole picture as one SVG document.
inline std::string chart_svg(const chart& data) { return detail::chart_writer(data).svg(); }

inline void write_chart(const std::filesystem::path& path, const chart& data) {
    write_file(path, chart_svg(data));
}

}  // namespace support

#include "chart_panel.hpp"
