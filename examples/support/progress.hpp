#pragma once

// A bar for long work, on stderr, so that stdout stays free for results.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "format.hpp"
#include "terminal.hpp"
#include "text.hpp"

namespace support {

struct progress_options {
    std::ostream* out = &std::cerr;
    bool terminal = stderr_is_terminal();  ///< false: plain lines, some seconds apart
    bool utf8 = terminal_has_utf8();
    std::size_t name_width = 0;  ///< the longest name, so that the bars of several networks align
};

/// One line that redraws itself at most ten times a second; plain lines where the output is a file. The
/// destructor removes an unfinished bar, so an exception or Ctrl-C leaves a clean terminal.
class progress {
public:
    using clock = std::chrono::steady_clock;

    progress(std::string_view name, std::int64_t total, progress_options options = {},
             clock::time_point start = clock::now())
        : options_(options), name_(printable(name)), total_(std::max<std::int64_t>(total, 1)), start_(start),
          drawn_(start) {
        const std::size_t width = display_width(name_);
        if (width < options_.name_width) name_.append(options_.name_width - width, ' ');
    }

    ~progress() { erase(); }
    progress(const progress&) = delete;
    progress& operator=(const progress&) = delete;

    /// `step`: steps done so far. `tokens`: tokens seen so far. Cheap; call it after every step.
    void update(std::int64_t step, double loss, double tokens, clock::time_point now = clock::now()) {
        step_ = std::clamp<std::int64_t>(step, 0, total_);
        loss_ = loss;
        tokens_ = tokens;
        now_ = now;
        if (!due()) return;
        drawn_ = now;
        drawn_step_ = step_;
        if (options_.terminal) {
            draw();
        } else {
            print(join(fields(true), terminal_limit) + '\n');
        }
    }

    /// A line of its own, without disturbing the bar.
    void say(std::string_view text) {
        erase();
        print(printable(text) + '\n');
        if (options_.terminal && drawn_step_ >= 0) draw();
    }

    /// Replaces the bar by one line that stays.
    void finish(clock::time_point now = clock::now()) {
        now_ = now;
        erase();
        print(join(fields(false), options_.terminal ? terminal_width() - 1 : terminal_limit) + '\n');
    }

private:
    static constexpr std::size_t terminal_limit = 1000;
    static constexpr std::size_t widest_bar = 32;

    static double seconds(clock::duration d) { return std::chrono::duration<double>(d).count(); }

    bool due() const {
        const double since = seconds(now_ - drawn_), elapsed = seconds(now_ - start_);
        if (options_.terminal) return drawn_step_ < 0 || since >= 0.1;
        // Lines of a long run move apart: a log of an hour should not have seven hundred of them.
        const bool tenth = (step_ - std::max<std::int64_t>(drawn_step_, 0)) * 10 >= total_;
        return since >= std::max(5.0, elapsed / 20) || (tenth && since >= 1);
    }

    /// Most important first; what does not fit is left out from the end.
    std::vector<std::string> fields(bool running) const {
        const double elapsed = seconds(now_ - start_);
        const std::string total = std::to_string(total_);
        std::string step = std::to_string(step_);
        step.insert(0, total.size() - std::min(total.size(), step.size()), ' ');
        std::vector<std::string> out{name_, step + "/" + total};
        out.push_back("loss " + (std::isfinite(loss_) ? fixed(loss_, 3) : std::string("-")));
        const std::string speed = elapsed > 0 ? human(tokens_ / elapsed, "tokens/s") : "- tokens/s";
        if (running) {
            const double part = static_cast<double>(step_) / static_cast<double>(total_);
            const double left = step_ > 0 ? elapsed * (1 - part) / part : NAN;
            out.push_back((left < 60 ? fixed(std::ceil(left), 0) + " s" : human_seconds(left)) + " left");
        } else {
            out.push_back("in " + human_seconds(elapsed));
        }
        out.push_back(speed);
        return out;
    }

    static std::string join(const std::vector<std::string>& parts, std::size_t limit) {
        std::string line;
        for (std::size_t i = 0; i < parts.size(); ++i) {
            const std::string next = (i == 0 ? "" : "  ") + parts[i];
            if (i > 0 && display_width(line) + display_width(next) > limit) break;
            line += next;
        }
        return line;
    }

    std::string bar(std::size_t width) const {
        const double part = static_cast<double>(step_) / static_cast<double>(total_);
        const auto halves = static_cast<std::size_t>(part * 2 * static_cast<double>(width));
        std::string out;
        for (std::size_t i = 0; i < width; ++i) {
            const bool full = 2 * i + 1 < halves, half = 2 * i + 1 == halves;
            if (options_.utf8) {
                out += full ? "\u2501" : half ? "\u2578" : "\u2504";  // heavy line, half of it, dots
            } else {
                out += full || half ? '#' : '.';
            }
        }
        return out;
    }

    void draw() {
        const std::size_t width = terminal_width() - 1;  // the last column would wrap
        std::vector<std::string> parts = fields(true);
        const std::size_t used = display_width(join(parts, terminal_limit)) + 2;
        const std::size_t room = width > used ? width - used : 0;
        if (room >= 8) parts.insert(parts.begin() + 1, bar(std::min(room, widest_bar)));
        print("\r" + join(parts, width) + "\x1b[K");
        visible_ = true;
    }

    void erase() {
        if (visible_) print("\r\x1b[K");
        visible_ = false;
    }

    void print(const std::string& text) { *options_.out << text << std::flush; }

    progress_options options_;
    std::string name_;
    std::int64_t total_, step_ = 0, drawn_step_ = -1;
    double loss_ = NAN, tokens_ = 0;
    clock::time_point start_, drawn_, now_{};
    bool visible_ = false;
};

}  // namespace support
