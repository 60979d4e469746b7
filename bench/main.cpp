// Runs the benchmarks and prints a table of ratios.
//   mox_bench [FILTER] [--check] [--json FILE] [--repetitions N]
// FILTER is a regular expression on group names. --check exits with 1 and names the rows that miss the goal
// that stands beside them in the source.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <regex>

#include <benchmark/benchmark.h>

#include "support/harness.hpp"
#include "support/peak.hpp"

namespace bench {

std::vector<group>& groups() {
    static std::vector<group> all;
    return all;
}

namespace {
// Competitors that were registered before their group.
std::vector<std::pair<std::string, competitor>>& waiting() {
    static std::vector<std::pair<std::string, competitor>> all;
    return all;
}
}  // namespace

void add_competitor(const std::string& group_name, competitor c) {
    waiting().emplace_back(group_name, std::move(c));
}

}  // namespace bench

namespace {

// Collects the seconds of every repetition by benchmark name.
class collector : public benchmark::BenchmarkReporter {
public:
    bool ReportContext(const Context&) override { return true; }
    void ReportRuns(const std::vector<Run>& runs) override {
        for (const Run& r : runs) {
            if (r.run_type != Run::RT_Iteration || r.iterations == 0) continue;
            seconds[r.run_name.function_name].push_back(r.real_accumulated_time /
                                                        static_cast<double>(r.iterations));
        }
        std::fprintf(stderr, ".");
        std::fflush(stderr);
    }

    double median(const std::string& name) const {
        const auto it = seconds.find(name);
        if (it == seconds.end() || it->second.empty()) return 0;
        std::vector<double> v = it->second;
        std::sort(v.begin(), v.end());
        return v[v.size() / 2];
    }

    std::map<std::string, std::vector<double>> seconds;
};

struct arguments {
    std::string filter = ".*";
    std::string json;
    bool check = false;
    int repetitions = 7;
};

arguments parse(int argc, char** argv) {
    arguments a;
    for (int i = 1; i < argc; ++i) {
        const std::string s = argv[i];
        const auto value = [&]() -> std::string {
            if (i + 1 >= argc) {
                std::fprintf(stderr, "mox_bench: %s needs a value\n", s.c_str());
                std::exit(2);
            }
            return argv[++i];
        };
        if (s == "--check") {
            a.check = true;
        } else if (s == "--json") {
            a.json = value();
        } else if (s == "--repetitions") {
            a.repetitions = std::max(1, std::atoi(value().c_str()));
        } else if (s == "--help") {
            std::printf("mox_bench [FILTER] [--check] [--json FILE] [--repetitions N]\n");
            std::exit(0);
        } else if (s.rfind("--", 0) == 0) {
            std::fprintf(stderr, "mox_bench: unknown option %s\n", s.c_str());
            std::exit(2);
        } else {
            a.filter = s;
        }
    }
    return a;
}

}  // namespace

int main(int argc, char** argv) {
    const arguments args = parse(argc, argv);
    for (auto& [name, c] : bench::waiting()) {
        for (auto& g : bench::groups()) {
            if (g.name == name) g.competitors.push_back(c);
        }
    }
    std::vector<const bench::group*> chosen;
    try {
        const std::regex filter(args.filter);
        for (const auto& g : bench::groups()) {
            if (std::regex_search(g.name, filter)) chosen.push_back(&g);
        }
    } catch (const std::regex_error& e) {
        std::fprintf(stderr, "mox_bench: '%s' is not a regular expression: %s\n", args.filter.c_str(),
                     e.what());
        return 2;
    }
    if (chosen.empty()) {
        std::fprintf(stderr, "mox_bench: no benchmark matches '%s'\n", args.filter.c_str());
        return 2;
    }

    const auto configure = [&](benchmark::internal::Benchmark* b) {
        b->Repetitions(args.repetitions)->MinTime(0.05)->UseRealTime()->Unit(benchmark::kMillisecond);
    };
    double burst_flops = 0;
    configure(benchmark::RegisterBenchmark("limit/fma_f32", [&](benchmark::State& state) {
        for (auto _ : state) burst_flops = bench::fma_burst();
    }));
    for (const bench::group* g : chosen) {
        for (const bench::competitor& c : g->competitors) {
            // Set up at the first repetition and kept, so that all repetitions run on the same warm data.
            auto body = std::make_shared<std::function<void()>>();
            configure(benchmark::RegisterBenchmark((g->name + "/" + c.who).c_str(),
                                                   [body, &c](benchmark::State& state) {
                                                       if (!*body) {
                                                           *body = c.setup();
                                                           (*body)();
                                                       }
                                                       for (auto _ : state) (*body)();
                                                   }));
        }
    }

    std::vector<std::string> words{"mox_bench", "--benchmark_enable_random_interleaving=true"};
    if (!args.json.empty()) {
        words.push_back("--benchmark_out=" + args.json);
        words.push_back("--benchmark_out_format=json");
    }
    std::vector<char*> pointers;
    for (auto& w : words) pointers.push_back(w.data());
    int count = static_cast<int>(pointers.size());
    benchmark::Initialize(&count, pointers.data());
    collector results;
    benchmark::RunSpecifiedBenchmarks(&results);
    std::fprintf(stderr, "\n");

    const double peak = burst_flops / results.median("limit/fma_f32");
    std::printf("FMA peak of one core, measured between the rows: %.1f GFLOP/s\n\n", peak * 1e-9);
    std::printf("%-62s %10s %9s %8s %10s  %s\n", "benchmark", "time", "GFLOP/s", "of peak", "mox is", "goal");
    std::vector<std::string> missed;
    for (const bench::group* g : chosen) {
        const double mox = results.median(g->name + "/mox");
        for (const bench::competitor& c : g->competitors) {
            const std::string name = g->name + "/" + c.who;
            const double seconds = results.median(name);
            if (seconds == 0) continue;
            const double rate = (c.flops > 0 ? c.flops : g->flops) / seconds;
            char ratio[32] = "";
            if (c.who != "mox") std::snprintf(ratio, sizeof ratio, "%.2f x", seconds / mox);
            std::string verdict;
            for (const bench::goal& want : g->goals) {
                if (c.who == "mox" && want.of_limit > 0) {
                    const bool ok = rate / peak >= want.of_limit;
                    char text[64];
                    std::snprintf(text, sizeof text, "%s >= %.2f of peak", ok ? "ok" : "MISSED",
                                  want.of_limit);
                    verdict = text;
                    if (!ok) missed.push_back(name + ": " + text);
                }
                if (c.who == want.peer) {
                    const bool share = want.at_most > 0;
                    const bool ok = share ? mox / seconds <= want.at_most : seconds / mox >= want.against;
                    char text[96];
                    if (share) {
                        std::snprintf(text, sizeof text, "%s mox takes %.3f of its time, <= %.3f",
                                      ok ? "ok" : "MISSED", mox / seconds, want.at_most);
                    } else {
                        std::snprintf(text, sizeof text, "%s >= %.2f x", ok ? "ok" : "MISSED", want.against);
                    }
                    verdict = text;
                    if (!ok) missed.push_back(name + ": " + text);
                }
            }
            std::printf("%-62s %7.3f ms %9.1f %8.2f %10s  %s\n", name.c_str(), seconds * 1e3, rate * 1e-9,
                        rate / peak, ratio, verdict.c_str());
        }
        std::printf("\n");
    }
#ifndef MOX_BENCH_TORCH
    std::printf("LibTorch was not found when this program was configured and is left out.\n");
#endif
    if (!missed.empty()) {
        std::printf("missed goals:\n");
        for (const auto& m : missed) std::printf("  %s\n", m.c_str());
    }
    return args.check && !missed.empty() ? 1 : 0;
}
