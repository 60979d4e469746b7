#pragma once

// One panel of the chart: frame, grid, curves and the names at their ends.

#include "chart.hpp"

namespace support::detail {

/// " (10¹² FLOPs)": the unit behind an axis title.
inline std::string axis_unit(int exponent, const std::string& unit) {
    if (exponent == 0) return " (" + unit + ")";
    constexpr std::array<std::string_view, 10> digits{"\u2070", "\u00b9", "\u00b2", "\u00b3", "\u2074",
                                                      "\u2075", "\u2076", "\u2077", "\u2078", "\u2079"};
    std::string power;
    for (const char c : std::to_string(exponent)) {
        power += c == '-' ? std::string_view("\u207b") : digits[static_cast<std::size_t>(c - '0')];
    }
    return " (10" + power + ' ' + unit + ")";
}

inline void chart_writer::panel(double x0, std::string_view title, const std::string& quantity,
                                const std::string& unit, double chart_point::*value) {
    double lowest = 0, highest = 0;
    bool any = false;
    for (const curve& c : curves_) {
        for (const chart_point& p : c.points) {
            lowest = any ? std::min(lowest, p.*value) : p.*value;
            highest = any ? std::max(highest, p.*value) : p.*value;
            any = true;
        }
    }
    const axis x = axis::from_zero(lowest, highest);
    const double bottom = top + plot_height, right = x0 + plot_width_;
    const auto x_pixel = [&](double v) { return x0 + plot_width_ * x.position(v); };

    text(x0, top - 14, title, "font-size=\"15\" font-weight=\"600\"");
    for (const double tick : y_.ticks()) {
        line(x0, y_pixel(tick), right, y_pixel(tick), "stroke=\"#e1e4e8\"");
        text(x0 - 8, y_pixel(tick) + 4.5, y_.label(tick), "text-anchor=\"end\" fill=\"#57606a\"");
    }
    for (const double tick : x.ticks()) {
        line(x_pixel(tick), top, x_pixel(tick), bottom, "stroke=\"#e1e4e8\"");
        text(x_pixel(tick), bottom + 20, x.label(tick), "text-anchor=\"middle\" fill=\"#57606a\"");
    }
    line(x0, bottom, right, bottom, "stroke=\"#6e7781\"");
    line(x0, top, x0, bottom, "stroke=\"#6e7781\"");
    text(x0 + plot_width_ / 2, bottom + 44, quantity + axis_unit(x.exponent(), unit),
         "text-anchor=\"middle\"");
    const std::string turn = "rotate(-90 " + fixed(x0 - 52, 1) + ' ' + fixed(top + plot_height / 2, 1) + ")";
    const std::string vertical = y_.exponent() == 0 ? "bits per byte" : "loss";
    text(x0 - 52, top + plot_height / 2,
         vertical + (y_.exponent() == 0 ? "" : axis_unit(y_.exponent(), "bits per byte")),
         "text-anchor=\"middle\" transform=\"" + turn + "\"");
    if (cut_) {
        text(right - 8, top + 16, "the steep start lies above this frame",
             "text-anchor=\"end\" font-size=\"12\" fill=\"#6e7781\"");
    }
    if (!any) text(x0 + plot_width_ / 2, top + plot_height * 0.45, "no data", "text-anchor=\"middle\"");

    const std::string frame = "plot" + fixed(x0, 0);
    out_ += "<clipPath id=\"" + frame + "\"><rect x=\"" + fixed(x0, 1) + "\" y=\"" + fixed(top, 1) +
            "\" width=\"" + fixed(plot_width_ + 8, 1) + "\" height=\"" + fixed(plot_height, 1) +
            "\"/></clipPath>\n<g clip-path=\"url(#" + frame +
            ")\" fill=\"none\" stroke-linejoin=\"round\">\n";
    for (std::size_t i = 0; i < curves_.size(); ++i) {
        if (curves_[i].points.size() < 2) continue;
        out_ += "<polyline " + stroke(i) + " points=\"";
        for (const chart_point& p : curves_[i].points) {
            // Far outside the frame a number is as good as its sign, and renderers dislike huge ones.
            const double y = std::clamp(y_pixel(p.bits_per_byte), -1e5, 1e5);
            (((out_ += fixed(x_pixel(p.*value), 1)) += ',') += fixed(y, 1)) += ' ';
        }
        out_.back() = '"';
        out_ += "/>\n";
    }
    out_ += "</g>\n";
    direct_labels(x0, x, value);
}

/// Names stand in the margin, moved apart, with a fine line to the end of their curve.
inline void chart_writer::direct_labels(double x0, const axis& x, double chart_point::*value) {
    std::vector<std::size_t> named;
    std::vector<double> wanted;
    for (std::size_t i = 0; i < curves_.size(); ++i) {
        if (curves_[i].points.empty()) continue;
        named.push_back(i);
        wanted.push_back(std::clamp(y_pixel(curves_[i].points.back().bits_per_byte), top, top + plot_height));
    }
    const std::vector<double> places = spread(wanted, 17, top + 6, top + plot_height - 6);
    const double right = x0 + plot_width_;
    for (std::size_t k = 0; k < named.size(); ++k) {
        const std::string colour(curve_colour(named[k]));
        const double end = x0 + plot_width_ * x.position(curves_[named[k]].points.back().*value);
        const std::string points = fixed(end, 1) + ',' + fixed(wanted[k], 1) + ' ' + fixed(right + 4, 1) +
                                   ',' + fixed(wanted[k], 1) + ' ' + fixed(right + 18, 1) + ',' +
                                   fixed(places[k], 1);
        out_ += "<polyline fill=\"none\" stroke=\"" + colour + "\" stroke-dasharray=\"1.5 2.5\" points=\"" +
                points + "\"/>\n<circle cx=\"" + fixed(end, 1) + "\" cy=\"" + fixed(wanted[k], 1) +
                "\" r=\"3.6\" fill=\"" + colour + "\" stroke=\"#ffffff\"/>\n";
        text(right + 22, places[k] + 4.5, fit(curves_[named[k]].name, margin_ - 26), "font-weight=\"500\"");
    }
}

}  // namespace support::detail
