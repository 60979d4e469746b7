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
#include "support/limits.hpp"

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

// A limit as people read it: its unit, the digits before it, and the burst that measures it.
struct limit_kind {
    const char* name;
    const char* unit;
    double (*burst)();
};

limit_kind describe(bench::limit l) {
    switch (l) {
    case bench::limit::fma_f32:
        return {"f32 FMA peak of one core", "GFLOP/s", &bench::fma_burst};
    case bench::limit::dot_bf16:
        return {"bf16 dot product peak of one core", "GFLOP/s", &bench::bf16_burst};
    case bench::limit::dot_int8:
        return {"int8 dot product peak of one core", "GOP/s", &bench::int8_burst};
    case bench::limit::read_bandwidth:
        return {"bandwidth of one core, reading", "GB/s", &bench::read_burst};
    case bench::limit::copy_bandwidth:
        return {"bandwidth of one core, copying", "GB/s", &bench::copy_burst};
    case bench::limit::none:
        break;
    }
    return {"", "G/s", nullptr};
}

void configure(benchmark::internal::Benchmark* b, int repetitions) {
    b->Repetitions(repetitions)->MinTime(0.05)->UseRealTime()->Unit(benchmark::kMillisecond);
}

// One line of the results.
struct row {
    std::string name;
    std::vector<double> seconds;
    double rate = 0, of_limit = 0;
};

// Measures one group, its limit between its competitors, and prints its lines.
class measured_group {
public:
    measured_group(const bench::group& g, int repetitions) : group(g) {
        benchmark::ClearRegisteredBenchmarks();
        const limit_kind kind = describe(g.kind);
        double work = 0;
        if (kind.burst && (work = kind.burst()) > 0) {
            configure(benchmark::RegisterBenchmark("limit",
                                                   [kind](benchmark::State& state) {
                                                       for (auto _ : state) kind.burst();
                                                   }),
                      repetitions);
        }
        for (const bench::competitor& c : g.competitors) {
            // Set up at the first repetition and kept, so that all repetitions run on the same warm data.
            auto body = std::make_shared<std::function<void()>>();
            configure(benchmark::RegisterBenchmark(c.who.c_str(),
                                                   [body, &c](benchmark::State& state) {
                                                       if (!*body) {
                                                           *body = c.setup();
                                                           (*body)();
                                                       }
                                                       for (auto _ : state) (*body)();
                                                   }),
                      repetitions);
        }
        benchmark::RunSpecifiedBenchmarks(&results);
        if (work > 0) limit = work / results.median("limit");
    }

    // Returns false when a goal is missed, with the reasons in `missed`.
    void print(std::vector<std::string>& missed, std::vector<row>& rows) const {
        const limit_kind kind = describe(group.kind);
        std::printf("%s", group.name.c_str());
        if (limit > 0) std::printf("   (%s: %.1f %s)", kind.name, limit * 1e-9, kind.unit);
        if (kind.burst && limit == 0) std::printf("   (this instruction set has no such limit)");
        std::printf("\n");
        for (const bench::competitor& c : group.competitors) {
            const double seconds = results.median(c.who);
            if (seconds == 0) continue;
            row r{group.name + "/" + c.who, results.seconds.at(c.who)};
            r.rate = (c.work > 0 ? c.work : group.work) / seconds;
            r.of_limit = limit > 0 ? r.rate / limit : 0;
            char of_limit[16] = "", ratio[32] = "";
            if (limit > 0) std::snprintf(of_limit, sizeof of_limit, "%.3f", r.of_limit);
            if (c.who != "mox") std::snprintf(ratio, sizeof ratio, "%.2f x", seconds / results.median("mox"));
            std::printf("  %-28s %10.4f ms %9.1f %-7s %8s %10s  %s\n", c.who.c_str(), seconds * 1e3,
                        r.rate * 1e-9, kind.unit, of_limit, ratio, verdict(c, r, missed).c_str());
            rows.push_back(std::move(r));
        }
        std::printf("\n");
        std::fflush(stdout);
    }

private:
    std::string verdict(const bench::competitor& c, const row& r, std::vector<std::string>& missed) const {
        std::string all;
        const auto judge = [&](bool ok, const char* format, double found, double wanted) {
            char text[96];
            std::snprintf(text, sizeof text, format, found, wanted);
            all += std::string(all.empty() ? "" : ", ") + (ok ? "ok " : "MISSED ") + text;
            if (!ok) missed.push_back(r.name + ": " + text);
        };
        const double seconds = results.median(c.who), mox = results.median("mox");
        for (const bench::goal& want : group.goals) {
            if (want.of_limit > 0 && c.who == (want.peer.empty() ? "mox" : want.peer)) {
                if (limit > 0)
                    judge(r.of_limit >= want.of_limit, "%.3f of the limit >= %.2f", r.of_limit,
                          want.of_limit);
            } else if (c.who == want.peer) {
                if (want.against > 0)
                    judge(seconds / mox >= want.against, "%.2f x >= %.2f x", seconds / mox, want.against);
                if (want.at_most > 0)
                    judge(mox / seconds <= want.at_most, "mox takes %.3f of its time <= %.3f", mox / seconds,
                          want.at_most);
                if (want.at_least > 0)
                    judge(mox / seconds >= want.at_least, "mox takes %.2f of its time >= %.2f", mox / seconds,
                          want.at_least);
            }
        }
        return all;
    }

    const bench::group& group;
    collector results;
    double limit = 0;
};

// name, median and all repetitions in seconds, share of the limit (0: none): what bench/compare reads.
void write_json(const std::string& path, const std::vector<row>& rows) {
    std::FILE* f = std::fopen(path.c_str(), "w");
    if (!f) {
        std::fprintf(stderr, "mox_bench: cannot write %s\n", path.c_str());
        std::exit(2);
    }
    std::fprintf(f, "[\n");
    for (std::size_t i = 0; i < rows.size(); ++i) {
        std::fprintf(f, "  {\"name\": \"%s\", \"of_limit\": %.6g, \"seconds\": [", rows[i].name.c_str(),
                     rows[i].of_limit);
        for (std::size_t j = 0; j < rows[i].seconds.size(); ++j) {
            std::fprintf(f, "%s%.9g", j ? ", " : "", rows[i].seconds[j]);
        }
        std::fprintf(f, "]}%s\n", i + 1 < rows.size() ? "," : "");
    }
    std::fprintf(f, "]\n");
    std::fclose(f);
}

const std::vector<const char*> absent_peers{
#ifndef MOX_BENCH_TORCH
    "LibTorch",
#endif
#ifndef MOX_BENCH_OPENBLAS
    "OpenBLAS",
#endif
#ifndef MOX_BENCH_ONEDNN
    "oneDNN",
#endif
};

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

    std::string words[] = {"mox_bench", "--benchmark_enable_random_interleaving=true"};
    char* pointers[] = {words[0].data(), words[1].data(), nullptr};
    int count = 2;
    benchmark::Initialize(&count, pointers);

    std::printf("share of the limit, and how many times mox's time the others take; medians of %d\n\n",
                args.repetitions);
    std::vector<std::string> missed;
    std::vector<row> rows;
    for (const bench::group* g : chosen) measured_group(*g, args.repetitions).print(missed, rows);
    std::fprintf(stderr, "\n");
    if (!args.json.empty()) write_json(args.json, rows);
    for (const char* peer : absent_peers)
        std::printf("%s was not found when this program was configured and is left out.\n", peer);
    if (!missed.empty()) {
        std::printf("missed goals:\n");
        for (const auto& m : missed) std::printf("  %s\n", m.c_str());
    }
    return args.check && !missed.empty() ? 1 : 0;
}
