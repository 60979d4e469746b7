#pragma once

// Accuracy of several networks against what they cost: an SVG with one panel per kind of cost and row of
// tasks. Each network is a mark with a bar for the spread over seeds.

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

struct accuracy_point {
    std::string name;
    std::size_t style = 0;  ///< colour and shape: the same for one system on all panels
    double accuracy = 0;    ///< mean over seeds, 0 to 1
    double spread = 0;      ///< standard deviation over seeds
    double flops = 0;       ///< per image
    double seconds = 0;     ///< per image
};

struct accuracy_panel {
    std::string title;
    std::vector<accuracy_point> points;
};

namespace detail {

class accuracy_writer {
public:
    std::string svg(const std::string& title, const std::string& caption,
                    const std::vector<accuracy_panel>& tasks) {
        const double height = top + static_cast<double>(tasks.size()) * row + 34;
        out_ = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + exact(width) + "\" height=\"" +
               exact(height) + "\" viewBox=\"0 0 " + exact(width) + ' ' + exact(height) +
               "\" role=\"img\" font-size=\"13\" fill=\"#24292f\" font-family=\"system-ui, -apple-system, "
               "'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif\">\n<title>" +
               escape_markup(title) + "</title>\n<desc>" + escape_markup(caption) +
               "</desc>\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#ffffff\"/>\n";
        text(24, 38, title, "font-size=\"21\" font-weight=\"600\"");
        for (std::size_t i = 0; i < tasks.size(); ++i) {
            const double y = top + static_cast<double>(i) * row;
            panel(left, y, tasks[i], "computation per image", "FLOPs", 1.0, &accuracy_point::flops);
            panel(left + plot + between, y, tasks[i], "time per image, one thread", "\u00b5s", 1e6,
                  &accuracy_point::seconds);
        }
        text(24, height - 16, caption, "fill=\"#57606a\"");
        return out_ + "</svg>\n";
    }

private:
    static constexpr double width = 1280, left = 72, top = 86, row = 410, plot = 400, plot_height = 310,
                            between = 236;

    void panel(double x0, double y0, const accuracy_panel& task, const std::string& quantity,
               const std::string& unit, double factor, double accuracy_point::*cost) {
        double low = INFINITY, high = -INFINITY, dear = 0;
        for (const accuracy_point& p : task.points) {
            low = std::min(low, 100 * (p.accuracy - p.spread));
            high = std::max(high, 100 * (p.accuracy + p.spread));
            dear = std::max(dear, factor * p.*cost);
        }
        if (!(low <= high)) low = 0, high = 100, dear = 1;
        const axis y = axis::around(low, high), x = axis::from_zero(0, dear * 1.06);
        const auto px = [&](double v) { return x0 + plot * x.position(v); };
        const auto py = [&](double v) { return y0 + plot_height * (1 - y.position(v)); };
        text(x0, y0 - 12, task.title, "font-weight=\"600\"");
        for (const double t : y.ticks()) {
            line(x0, py(t), x0 + plot, py(t), "stroke=\"#e4e7eb\"");
            text(x0 - 8, py(t) + 4.5, y.label(t), "text-anchor=\"end\" fill=\"#57606a\"");
        }
        for (const double t : x.ticks()) {
            line(px(t), y0 + plot_height, px(t), y0 + plot_height + 5, "stroke=\"#8c959f\"");
            text(px(t), y0 + plot_height + 20, x.label(t), "text-anchor=\"middle\" fill=\"#57606a\"");
        }
        line(x0, y0 + plot_height, x0 + plot, y0 + plot_height, "stroke=\"#8c959f\"");
        const std::string power = x.exponent() == 0 ? "" : "1e" + std::to_string(x.exponent()) + " ";
        text(x0 + plot / 2, y0 + plot_height + 40, quantity + " (" + power + unit + ")",
             "text-anchor=\"middle\"");
        text(x0 - 46, y0 + plot_height / 2, "accuracy (%)",
             "text-anchor=\"middle\" transform=\"rotate(-90 " + fixed(x0 - 46, 1) + ' ' +
                 fixed(y0 + plot_height / 2, 1) + ")\"");
        std::vector<double> places;
        for (const accuracy_point& p : task.points) places.push_back(py(100 * p.accuracy));
        const std::vector<double> labels = spread(places, 17, y0 + 4, y0 + plot_height - 2);
        for (std::size_t i = 0; i < task.points.size(); ++i) {
            const accuracy_point& p = task.points[i];
            const double cx = px(factor * p.*cost), cy = places[i];
            const std::string colour(colours[p.style % colours.size()]);
            line(cx, py(100 * (p.accuracy - p.spread)), cx, py(100 * (p.accuracy + p.spread)),
                 "stroke=\"" + colour + "\" stroke-width=\"1.6\"");
            mark(cx, cy, p.style, colour);
            line(cx + 7, cy, x0 + plot + 8, labels[i], "stroke=\"" + colour + "\" stroke-width=\"0.6\"");
            text(x0 + plot + 12, labels[i] + 4.5, p.name, "font-size=\"12\" fill=\"" + colour + "\"");
        }
    }

    void mark(double x, double y, std::size_t style, const std::string& colour) {
        const std::string paint = "fill=\"" + colour + "\" stroke=\"#ffffff\"/>\n";
        if (style % 2 == 0) {
            out_ += "<circle cx=\"" + fixed(x, 1) + "\" cy=\"" + fixed(y, 1) + "\" r=\"5.5\" " + paint;
        } else {
            out_ += "<rect x=\"" + fixed(x - 5, 1) + "\" y=\"" + fixed(y - 5, 1) +
                    "\" width=\"10\" height=\"10\" " + paint;
        }
    }

    void text(double x, double y, std::string_view words, std::string_view style) {
        out_ += "<text x=\"" + fixed(x, 1) + "\" y=\"" + fixed(y, 1) + "\" " + std::string(style) + '>' +
                escape_markup(words) + "</text>\n";
    }
    void line(double x1, double y1, double x2, double y2, std::string_view style) {
        out_ += "<line x1=\"" + fixed(x1, 1) + "\" y1=\"" + fixed(y1, 1) + "\" x2=\"" + fixed(x2, 1) +
                "\" y2=\"" + fixed(y2, 1) + "\" " + std::string(style) + "/>\n";
    }

    static constexpr std::array<std::string_view, 8> colours{"#404040", "#8c959f", "#0072b2", "#56b4e9",
                                                             "#d55e00", "#e69f00", "#009e73", "#7a4fa3"};
    std::string out_;
};

}  // namespace detail

inline void write_accuracy_chart(const std::filesystem::path& path, const std::string& title,
                                 const std::string& caption, const std::vector<accuracy_panel>& tasks) {
    write_file(path, detail::accuracy_writer().svg(title, caption, tasks));
}

}  // namespace support
