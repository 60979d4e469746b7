// Runs the benchmarks and prints a table of ratios.
//   mox_bench [FILTER] [--check] [--json FILE] [--repetitions N]
// FILTER is a regular expression on group names. --check exits with 1 and names the rows that miss the goal
// that stands beside them in the source.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include "support/harness.hpp"
#include "support/measured_group.hpp"

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

// One line of the results.
struct row {
    std::string name;
    std::vector<double> seconds;
    bench::estimate of_limit, to_mox;
};

// What is said after the tables.
struct findings {
    std::vector<row> rows;
    std::vector<std::string> missed, not_judged;
};

// "0.912 [0.90 0.92]": the median, and between what the middle half of the rounds lies.
std::string text_of(const bench::estimate& e, const char* format) {
    char text[64];
    std::snprintf(text, sizeof text, format, e.median, e.low, e.high);
    return text;
}

// Holds one competitor against the goals of its group.
class verdict {
public:
    verdict(const bench::group& g, const bench::measured_group& m) : group(g), measured(m) {}

    std::string on(const bench::measurement& m, const row& r, findings& all) {
        text.clear();
        const auto is = [&](const std::string& who) { return m.who->who == who; };
        const double peer = r.to_mox.median;
        for (const bench::goal& want : group.goals) {
            if (want.of_limit > 0 && is(want.peer.empty() ? "mox" : want.peer)) {
                const double share = r.of_limit.median;
                if (share > 0)
                    judge(share >= want.of_limit, "%.3f of the limit >= %.2f", share, want.of_limit, 0, r,
                          all);
            } else if (is(want.peer) && peer > 0) {
                const int more = measured.find("mox")->who->threads - m.who->threads;
                if (want.against > 0)
                    judge(peer >= want.against, "%.2f x >= %.2f x", peer, want.against, more, r, all);
                if (want.at_most > 0)
                    judge(1 / peer <= want.at_most, "mox takes %.3f of its time <= %.3f", 1 / peer,
                          want.at_most, 0, r, all);
                if (want.at_least > 0)
                    judge(1 / peer >= want.at_least, "mox takes %.2f of its time >= %.2f", 1 / peer,
                          want.at_least, -more, r, all);
            }
        }
        return text;
    }

private:
    // more: how many threads more than the other the one has that is to be faster.
    void judge(bool ok, const char* format, double found, double wanted, int more, const row& r,
               findings& all) {
        char words[96];
        std::snprintf(words, sizeof words, format, found, wanted);
        std::string result = ok ? "ok " : "MISSED ";
        // What the limit itself does not gain from a core, no layer can.
        const double possible =
            more > 0 && measured.limit(1) > 0 ? measured.limit(1 + more) / measured.limit(1) : 0;
        if (!ok && possible > 0 && possible < wanted) {
            char why[96];
            std::snprintf(why, sizeof why, "; the limit gained %.2f x, on %.1f cores", possible,
                          measured.cores_of_limit(1 + more));
            all.not_judged.push_back(r.name + ": " + words + why);
            result = "NOT JUDGED ";
        } else if (!ok) {
            all.missed.push_back(r.name + ": " + words);
        }
        text += (text.empty() ? "" : ", ") + result + words;
    }

    const bench::group& group;
    const bench::measured_group& measured;
    std::string text;
};

void print_title(const bench::group& g, const bench::measured_group& m) {
    std::printf("%s", g.name.c_str());
    if (m.limit() > 0) std::printf("   (%s: %.1f %s", m.kind.name, m.limit() * 1e-9, m.kind.unit);
    for (const bench::measurement& r : m.results) {
        const int threads = r.who->threads;
        if (threads == 1 || m.limit(threads) == 0) continue;
        if (m.limit() > 0) {
            std::printf("; of %d: %.2f times that", threads, m.limit(threads) / m.limit());
        } else {
            std::printf("   (%s, of %d: %.1f %s", m.kind.name, threads, m.limit(threads) * 1e-9, m.kind.unit);
        }
        break;
    }
    const bool any = !m.results.empty() && m.limit(m.results[0].who->threads) > 0;
    if (any) std::printf(")");
    if (m.kind.burst && !any) std::printf("   (this instruction set has no such limit)");
    std::printf("\n");
}

// Measures one group and prints its lines.
void run_group(const bench::group& g, int rounds, const bench::allowed_cores& cores, findings& all) {
    const bench::measured_group measured(g, rounds, cores);
    print_title(g, measured);
    verdict judge(g, measured);
    for (const bench::measurement& m : measured.results) {
        row r{g.name + "/" + m.who->who, m.seconds, bench::estimate::of(m.of_limit),
              bench::estimate::of(m.to_mox)};
        const double seconds = bench::estimate::of(m.seconds).median;
        std::printf("  %-18s %10.4f ms %9.1f %-7s  %-21s  %-21s  %s\n", m.who->who.c_str(), seconds * 1e3,
                    m.work / seconds * 1e-9, measured.kind.unit,
                    r.of_limit ? text_of(r.of_limit, "%.3f [%.3f %.3f]").c_str() : "",
                    r.to_mox ? text_of(r.to_mox, "%.2f x [%.2f %.2f]").c_str() : "",
                    judge.on(m, r, all).c_str());
        const double busy = bench::estimate::of(m.cores).median;
        if (busy > m.who->threads + 0.2)
            std::printf("  %-18s %.1f cores were busy: a thread of another competitor does not sleep\n", "",
                        busy);
        all.rows.push_back(std::move(r));
    }
    for (const bench::competitor* c : measured.left_out) {
        std::printf("  %-18s left out: needs %d cores, this process may use %d\n", c->who.c_str(), c->threads,
                    cores.count());
        all.not_judged.push_back(g.name + "/" + c->who + ": too few cores");
    }
    std::printf("\n");
    std::fflush(stdout);
}

// Name, seconds of all slices, the medians of the ratios (0: none): what compare.awk reads.
void write_json(const std::string& path, const std::vector<row>& rows) {
    std::FILE* f = std::fopen(path.c_str(), "w");
    if (!f) {
        std::fprintf(stderr, "mox_bench: cannot write %s\n", path.c_str());
        std::exit(2);
    }
    std::fprintf(f, "[\n");
    for (std::size_t i = 0; i < rows.size(); ++i) {
        std::fprintf(f, "  {\"name\": \"%s\", \"of_limit\": %.6g, \"to_mox\": %.6g, \"seconds\": [",
                     rows[i].name.c_str(), rows[i].of_limit.median, rows[i].to_mox.median);
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

    std::printf(
        "share of the limit, and how many times mox's time the others take: ratios of neighbours in time,\n"
        "medians of %d rounds [and between what half of them lie]\n\n",
        args.repetitions);
    const bench::allowed_cores cores;
    findings all;
    for (const bench::group* g : chosen) run_group(*g, args.repetitions, cores, all);
    std::fprintf(stderr, "\n");
    if (!args.json.empty()) write_json(args.json, all.rows);
    for (const char* peer : absent_peers)
        std::printf("%s was not found when this program was configured and is left out.\n", peer);
    const auto list = [](const char* title, const std::vector<std::string>& lines) {
        if (!lines.empty()) std::printf("%s:\n", title);
        for (const std::string& line : lines) std::printf("  %s\n", line.c_str());
    };
    list("not judged, because this process did not have the cores", all.not_judged);
    list("missed goals", all.missed);
    return args.check && !all.missed.empty() ? 1 : 0;
}
