#pragma once

// Digits to learn from: read from a folder, or drawn here when there is none; and the two tasks made of them.

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <vector>

#include <mox/core/random.hpp>

#include "idx.hpp"

namespace support {

namespace detail {

struct point {
    double x, y;
};

// Strokes of the ten digits in the unit square, y downwards.
inline const std::vector<std::vector<point>>& strokes(std::size_t digit) {
    static const std::array<std::vector<std::vector<point>>, 10> all{{
        {{{.5, .1}, {.28, .2}, {.22, .5}, {.28, .8}, {.5, .9}, {.72, .8}, {.78, .5}, {.72, .2}, {.5, .1}}},
        {{{.35, .25}, {.55, .1}, {.55, .9}}},
        {{{.25, .3}, {.35, .13}, {.6, .1}, {.75, .28}, {.65, .5}, {.25, .9}, {.78, .88}}},
        {{{.25, .15}, {.7, .12}, {.48, .42}, {.75, .6}, {.65, .85}, {.4, .92}, {.22, .8}}},
        {{{.62, .9}, {.62, .1}, {.2, .65}, {.82, .65}}},
        {{{.72, .1}, {.3, .1}, {.27, .45}, {.6, .42}, {.77, .65}, {.62, .88}, {.25, .88}}},
        {{{.65, .1}, {.35, .35}, {.24, .65}, {.4, .9}, {.65, .88}, {.76, .68}, {.6, .5}, {.28, .6}}},
        {{{.2, .12}, {.8, .12}, {.42, .9}}},
        {{{.5, .48}, {.28, .3}, {.5, .1}, {.72, .3}, {.5, .48}, {.24, .7}, {.5, .9}, {.76, .7}, {.5, .48}}},
        {{{.72, .35}, {.5, .5}, {.27, .35}, {.4, .12}, {.65, .13}, {.74, .35}, {.68, .65}, {.45, .9}}},
    }};
    return all[digit];
}

inline double distance_to_segment(point p, point a, point b) {
    const double dx = b.x - a.x, dy = b.y - a.y;
    const double length = std::max(dx * dx + dy * dy, 1e-12);
    const double t = std::clamp(((p.x - a.x) * dx + (p.y - a.y) * dy) / length, 0.0, 1.0);
    return std::hypot(p.x - a.x - t * dx, p.y - a.y - t * dy);
}

}  // namespace detail

/// Digits drawn with a wobbling hand: every image has its own size, slant, turn, thickness and place.
inline image_set draw_digits(std::size_t count, std::uint64_t seed) {
    constexpr std::size_t side = 28;
    image_set set;
    set.side = side;
    for (std::size_t i = 0; i < count; ++i) {
        const mox::random_stream numbers(seed, i);
        std::uint64_t next = 0;
        const auto between = [&](double low, double high) {
            return low + (high - low) * numbers.uniform(next++);
        };
        const std::size_t digit = numbers.bits(1u << 20) % 10;
        const double angle = between(-0.3, 0.3), slant = between(-0.25, 0.25);
        const double width = between(13, 20), height = between(17, 21), pen = between(0.9, 1.9);
        const double cx = between(12.5, 15.5), cy = between(12.5, 15.5);
        std::vector<std::vector<detail::point>> lines = detail::strokes(digit);
        for (auto& line : lines) {
            for (auto& p : line) {
                const double x = (p.x - 0.5) * width + between(-0.7, 0.7);
                const double y = (p.y - 0.5) * height + between(-0.7, 0.7);
                const double sheared = x - slant * y;
                p = {cx + std::cos(angle) * sheared - std::sin(angle) * y,
                     cy + std::sin(angle) * sheared + std::cos(angle) * y};
            }
        }
        for (std::size_t y = 0; y < side; ++y) {
            for (std::size_t x = 0; x < side; ++x) {
                double nearest = 1e9;
                for (const auto& line : lines) {
                    for (std::size_t k = 1; k < line.size(); ++k) {
                        nearest = std::min(nearest, detail::distance_to_segment(
                                                        {static_cast<double>(x), static_cast<double>(y)},
                                                        line[k - 1], line[k]));
                    }
                }
                const double ink = std::clamp(pen + 0.5 - nearest, 0.0, 1.0);
                set.pixels.push_back(static_cast<std::uint8_t>(std::lround(255 * ink)));
            }
        }
        set.labels.push_back(static_cast<std::uint8_t>(digit));
    }
    return set;
}

/// What a network gets to see.
enum class task {
    digits,    ///< 28 x 28: the digit, moved by up to two pixels
    cluttered  ///< 56 x 56: the digit at a random place among fragments of other digits
};

inline std::size_t canvas_side(task t) { return t == task::digits ? 28 : 56; }

/// Paints example `i` of a set; `draw` numbers the painting, so that each epoch sees new ones. `canvas`:
/// side x side values from 0 to 1.
inline void paint(task what, const image_set& set, std::size_t i, std::uint64_t seed, std::uint64_t draw,
                  float* canvas) {
    const std::size_t side = canvas_side(what), from_side = set.side;
    const mox::random_stream numbers(seed, draw);
    std::uint64_t next = 0;
    const auto below = [&](std::size_t n) { return static_cast<std::size_t>(numbers.bits(next++)) % n; };
    std::fill_n(canvas, side * side, 0.0f);
    // A window of `size` pixels of image j, its corner (sx, sy), to (x, y); bright wins, outside is cut.
    const auto put = [&](std::size_t j, std::size_t sx, std::size_t sy, std::size_t size, std::ptrdiff_t x,
                         std::ptrdiff_t y) {
        const std::uint8_t* from = set.image(j);
        for (std::size_t r = 0; r < size; ++r) {
            for (std::size_t c = 0; c < size; ++c) {
                const auto tx = x + static_cast<std::ptrdiff_t>(c), ty = y + static_cast<std::ptrdiff_t>(r);
                const auto limit = static_cast<std::ptrdiff_t>(side);
                if (tx < 0 || ty < 0 || tx >= limit || ty >= limit) continue;
                float& to = canvas[ty * limit + tx];
                to = std::max(to, static_cast<float>(from[(sy + r) * from_side + sx + c]) / 255.0f);
            }
        }
    };
    if (what == task::digits) {
        put(i, 0, 0, from_side, static_cast<std::ptrdiff_t>(below(5)) - 2,
            static_cast<std::ptrdiff_t>(below(5)) - 2);
        return;
    }
    constexpr std::size_t fragments = 8, size = 9;
    for (std::size_t f = 0; f < fragments; ++f) {
        // From the middle of the image, where the ink is.
        const std::size_t j = below(set.count()), sx = 5 + below(9), sy = 5 + below(9);
        put(j, sx, sy, size, static_cast<std::ptrdiff_t>(below(side - size)),
            static_cast<std::ptrdiff_t>(below(side - size)));
    }
    put(i, 0, 0, from_side, static_cast<std::ptrdiff_t>(below(side - from_side + 1)),
        static_cast<std::ptrdiff_t>(below(side - from_side + 1)));
}

}  // namespace support
