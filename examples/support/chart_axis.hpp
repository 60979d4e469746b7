#pragma once

// An axis of a chart: its range, round ticks and their labels.

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "format.hpp"

namespace support {

class axis {
public:
    /// From zero (or the lowest value, if that is negative) to the highest value.
    static axis from_zero(double lowest, double highest) {
        const double low = std::min(lowest, 0.0);
        return {low, highest > low ? highest : low + 1, false};
    }

    /// Around the values; a logarithm where they span more than three powers of ten.
    static axis around(double lowest, double highest) {
        if (lowest > 0 && highest / lowest > 1000) {
            return {std::pow(10, std::floor(std::log10(lowest))), highest, true};
        }
        double room = (highest - lowest) * 0.06;
        if (!(room > std::abs(highest) * 1e-9)) room = std::max(std::abs(highest) * 0.1, 1e-3);  // all equal
        return {lowest - room, highest + room, false};
    }

    /// 0 at the low end, 1 at the high end; beyond for values outside.
    double position(double value) const {
        if (!logarithmic_) return (value - low_) / (high_ - low_);
        return std::log10(std::max(value, low_) / low_) / std::log10(high_ / low_);
    }

    const std::vector<double>& ticks() const { return ticks_; }

    std::string label(double tick) const {
        if (logarithmic_) {
            const int power = static_cast<int>(std::lround(std::log10(tick)));
            return power >= 0 && power <= 4 ? fixed(tick, 0) : "1e" + std::to_string(power);
        }
        return fixed(tick / std::pow(10.0, exponent_), decimals_);
    }

    /// Labels are in units of ten to this power, a multiple of three.
    int exponent() const { return exponent_; }

private:
    axis(double low, double high, bool logarithmic) : low_(low), high_(high), logarithmic_(logarithmic) {
        if (logarithmic_) {
            power_ticks();
        } else {
            round_ticks();
        }
    }

    /// Steps of 1, 2 or 5 times a power of ten, about five of them.
    void round_ticks() {
        const double rough = (high_ - low_) / 5;
        const double power = std::pow(10.0, std::floor(std::log10(rough)));
        const double part = rough / power;
        const double factor = part < 1.5 ? 1 : part < 3.5 ? 2 : part < 7.5 ? 5 : 10;
        const double step = factor * power;
        const double first = std::ceil(low_ / step - 1e-9);
        for (int i = 0; i < 12; ++i) {  // counted, so that no rounding can make it endless
            const double tick = (first + i) * step;
            if (tick > high_ + step * 1e-9) break;
            ticks_.push_back(tick);
        }
        const double largest = std::max(std::abs(low_), std::abs(high_));
        if (largest >= 1e5 || largest < 1e-2) {
            exponent_ = 3 * static_cast<int>(std::floor(std::log10(largest) / 3));
        }
        const double shown = std::log10(step) - exponent_;
        decimals_ = std::clamp(static_cast<int>(std::ceil(-shown - 1e-9)), 0, 9);
    }

    void power_ticks() {
        const int first = static_cast<int>(std::ceil(std::log10(low_) - 1e-9));
        const int last = static_cast<int>(std::floor(std::log10(high_) + 1e-9));
        const int stride = (last - first) / 8 + 1;
        for (int p = first; p <= last; p += stride) ticks_.push_back(std::pow(10.0, p));
    }

    double low_, high_;
    bool logarithmic_;
    std::vector<double> ticks_;
    int exponent_ = 0;
    int decimals_ = 0;
};

/// Moves labels apart: `wanted` are their centres, the result keeps `gap` between them and all of them inside
/// [low, high], as near to the wanted places as one sweep in each direction gets them.
inline std::vector<double> spread(const std::vector<double>& wanted, double gap, double low, double high) {
    std::vector<std::pair<double, std::size_t>> order;
    for (std::size_t i = 0; i < wanted.size(); ++i) order.emplace_back(wanted[i], i);
    std::stable_sort(order.begin(), order.end(), [](auto& a, auto& b) { return a.first < b.first; });
    if (order.size() > 1) gap = std::min(gap, (high - low) / static_cast<double>(order.size() - 1));
    double least = low;
    for (auto& [place, index] : order) {
        place = std::max(place, least);
        least = place + gap;
    }
    double most = high;
    for (std::size_t i = order.size(); i-- > 0;) {
        order[i].first = std::min(order[i].first, most);
        most = order[i].first - gap;
    }
    std::vector<double> out(wanted.size());
    for (const auto& [place, index] : order) out[index] = place;
    return out;
}

}  // namespace support
