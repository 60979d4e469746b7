#pragma once

// Times in rounds, and ratios of neighbours in time. A shared machine changes its speed by more than what is
// to be seen; two slices of a few milliseconds, one right after the other, share most of that.

#include <algorithm>
#include <ctime>
#include <functional>
#include <vector>

#include <benchmark/benchmark.h>

namespace bench {

/// Seconds of `times` repetitions, by Google Benchmark's stopwatch. Its own repetitions of one benchmark
/// follow each other; here every slice is a run, so that slices of several benchmarks can alternate.
inline double seconds_of(const std::function<void()>& body, long times) {
    struct reporter : benchmark::BenchmarkReporter {
        double seconds = 0;
        bool ReportContext(const Context&) override { return true; }
        void ReportRuns(const std::vector<Run>& runs) override {
            for (const Run& r : runs) seconds += r.real_accumulated_time;
        }
    } results;
    benchmark::ClearRegisteredBenchmarks();
    benchmark::RegisterBenchmark("slice",
                                 [&body](benchmark::State& state) {
                                     for (auto _ : state) body();
                                 })
        ->Iterations(times)
        ->UseRealTime();
    benchmark::RunSpecifiedBenchmarks(&results);
    return results.seconds;
}

/// What many rounds say: the median, and where the middle half of them lies.
struct estimate {
    double low = 0, median = 0, high = 0;

    explicit operator bool() const { return median > 0; }
    static estimate of(std::vector<double> values) {
        if (values.empty()) return {};
        std::sort(values.begin(), values.end());
        const auto at = [&](double share) {
            const double place = share * static_cast<double>(values.size() - 1);
            const auto i = static_cast<std::size_t>(place);
            const double next = values[std::min(i + 1, values.size() - 1)];
            return values[i] + (next - values[i]) * (place - static_cast<double>(i));
        };
        return {at(0.25), at(0.5), at(0.75)};
    }
};

struct slice {
    double seconds =
        0;  ///< of one repetition: the median of the batches, so that one interruption does not count
    double cores = 0;  ///< processor time of the whole process over time: who else was awake?
};

/// A body, repeated in batches. An interruption hits a long batch nearly always and a short one rarely: what
/// is compared runs in batches of the same length.
class timed {
public:
    /// batch: seconds; a body that takes longer is a batch of its own.
    timed(std::function<void()> body_, double batch = shortest) : body(std::move(body_)) {
        body();
        once = repeat(1);
        while (repeats < 1000000 && length() < batch) repeats *= 2;
        if (once < batch)
            repeats = std::max(1L, static_cast<long>(static_cast<double>(repeats) * batch / length()));
    }

    /// Seconds of a batch.
    double length() const { return repeat(repeats); }

    /// seconds: the least that it takes.
    slice run(double seconds) const {
        // What ran before has emptied the caches and put threads to sleep. A long repetition does not feel
        // it.
        if (once < 0.1) body();
        std::vector<double> batches;
        const double cpu = process_seconds();
        double total = 0;
        do {
            batches.push_back(repeat(repeats));
            total += batches.back();
        } while (total < seconds);
        const double used = process_seconds() - cpu;
        return {estimate::of(std::move(batches)).median / static_cast<double>(repeats), used / total};
    }

private:
    static constexpr double shortest = 1e-4;  // a clock call takes 3e-8

    double repeat(long times) const { return seconds_of(body, times); }
    static double process_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

    std::function<void()> body;
    double once = 0;
    long repeats = 1;
};

}  // namespace bench
