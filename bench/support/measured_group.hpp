#pragma once

// Runs the competitors of one group and its limit in rounds, and makes ratios of neighbours.
//
// A round: limit mox limit peer limit mox limit other_peer limit mox limit. A share of the limit comes from a
// slice and the limit just before and after it, a ratio to mox from a slice and mox just before and after it.

#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <mox/exec/thread_pool.hpp>

#include "support/cores.hpp"
#include "support/harness.hpp"
#include "support/limits.hpp"
#include "support/rounds.hpp"

namespace bench {

// A limit as people read it: its unit, the digits before it, and the burst that measures it.
struct limit_kind {
    const char* name;
    const char* unit;
    double (*burst)(index_t part, index_t parts);
};

inline limit_kind describe(limit l) {
    switch (l) {
    case limit::fma_f32:
        return {"f32 FMA peak of one core", "GFLOP/s", &fma_burst};
    case limit::dot_bf16:
        return {"bf16 dot product peak of one core", "GFLOP/s", &bf16_burst};
    case limit::dot_int8:
        return {"int8 dot product peak of one core", "GOP/s", &int8_burst};
    case limit::read_bandwidth:
        return {"bandwidth of one core, reading", "GB/s", &read_burst};
    case limit::copy_bandwidth:
        return {"bandwidth of one core, copying", "GB/s", &copy_burst};
    case limit::add_bandwidth:
        return {"bandwidth of one core, adding", "GB/s", &add_burst};
    case limit::none:
        break;
    }
    return {"", "G/s", nullptr};
}

/// What was found out about one competitor, slice by slice.
struct measurement {
    const competitor* who;
    double work;                   ///< of one repetition
    std::vector<double> seconds;   ///< of one repetition
    std::vector<double> of_limit;  ///< share of the limit of as many cores as it uses; empty: no limit
    std::vector<double> to_mox;    ///< its time in units of mox's; empty: there is no mox
    std::vector<double> cores;     ///< that the whole process kept busy meanwhile
};

class measured_group {
public:
    /// cores: what the process may use. Competitors that need more are left out.
    measured_group(const group& g, int rounds, const allowed_cores& cores_)
        : kind(describe(g.kind)), cores(cores_) {
        for (const competitor& c : g.competitors) {
            if (c.threads > cores.count()) {
                left_out.push_back(&c);
                continue;
            }
            results.push_back({&c, c.work > 0 ? c.work : g.work, {}, {}, {}, {}});
            const auto others = threads_now();
            bodies.emplace_back(c.setup());
            if (c.threads > 1) cores.spread(others);
            if (bodies.size() == 1) limit_batch = std::min(bodies[0].length(), longest_limit);
            // A peer that binds the main thread to a core would take the others from threads that start
            // later.
            if (cores.restore()) {
                std::fprintf(stderr, "mox_bench: %s changed the cores this process may use; taken back\n",
                             c.who.c_str());
            }
            add_limit(c.threads);
        }
        for (int r = 0; r < rounds; ++r) {
            run_round();
            std::fprintf(stderr, ".");
            std::fflush(stderr);
        }
    }

    measured_group(const measured_group&) = delete;
    measured_group& operator=(const measured_group&) = delete;

    /// The measurement of a competitor; null: it was left out.
    const measurement* find(const std::string& who) const {
        for (const measurement& m : results) {
            if (m.who->who == who) return &m;
        }
        return nullptr;
    }

    /// Operations or bytes a second of so many cores; 0: no such limit here.
    double limit(int threads = 1) const {
        const auto found = limits.find(threads);
        if (found == limits.end()) return 0;
        return found->second.work / estimate::of(found->second.seconds).median;
    }

    /// Cores that were at work while so many threads measured the limit; less than threads: a neighbour had
    /// the rest.
    double cores_of_limit(int threads) const {
        const auto found = limits.find(threads);
        return found == limits.end() ? 0 : estimate::of(found->second.cores).median;
    }

    const limit_kind kind;
    std::vector<measurement> results;
    std::vector<const competitor*> left_out;

private:
    // Seconds. Long against a timer tick and the waking of a thread, short against the time in which a
    // machine changes its speed.
    static constexpr double competitor_slice = 0.02, limit_slice = 0.005, longest_limit = 0.05;

    struct limit_of {
        double work;
        timed body;
        std::vector<double> seconds, cores;
    };

    void add_limit(int threads) {
        if (!kind.burst || limits.contains(threads)) return;
        if (threads > 1) {
            const auto others = threads_now();
            pools[threads].emplace(threads);
            cores.spread(others);
        }
        const double work = burst(threads);
        if (work > 0)
            limits.emplace(threads, limit_of{work, {[=, this] { burst(threads); }, limit_batch}, {}, {}});
    }

    double burst(int threads) {
        if (threads == 1) return kind.burst(0, 1);
        // Several parts a thread, so that its waking counts little.
        const index_t parts = 4 * threads;
        std::vector<double> work(static_cast<std::size_t>(parts));
        pools[threads]->run(parts,
                            [&](index_t i) { work[static_cast<std::size_t>(i)] = kind.burst(i, parts); });
        return std::accumulate(work.begin(), work.end(), 0.0);
    }

    // Beside workers that have a core each, the calling thread keeps to its own.
    slice turn(const timed& body, int threads, double seconds) const {
        if (threads > 1) cores.bind(0, 0);
        const slice s = body.run(seconds);
        cores.restore();
        return s;
    }

    // Seconds of the limit of so many cores at this moment; 0: there is none.
    double limit_now(int threads) {
        const auto found = limits.find(threads);
        if (found == limits.end()) return 0;
        const slice s = turn(found->second.body, threads, limit_slice);
        found->second.seconds.push_back(s.seconds);
        found->second.cores.push_back(s.cores);
        return s.seconds;
    }

    void run_round() {
        std::vector<std::size_t> order;
        const auto is_mox = [&](std::size_t i) { return results[i].who->who == "mox"; };
        std::size_t mox = 0;
        while (mox < results.size() && !is_mox(mox)) ++mox;
        const bool with_mox = mox < results.size();
        for (std::size_t i = 0; i < results.size(); ++i) {
            if (i == mox) continue;
            if (with_mox) order.push_back(mox);
            order.push_back(i);
        }
        if (with_mox) order.push_back(mox);

        std::vector<double> times;
        int threads = 0;
        double before = 0;
        for (const std::size_t i : order) {
            measurement& m = results[i];
            if (m.who->threads != threads) before = limit_now(m.who->threads);
            threads = m.who->threads;
            const slice s = turn(bodies[i], threads, competitor_slice);
            const double after = limit_now(threads);
            times.push_back(s.seconds);
            m.seconds.push_back(s.seconds);
            m.cores.push_back(s.cores);
            if (after > 0)
                m.of_limit.push_back(m.work / s.seconds * (before + after) / 2 / limits.at(threads).work);
            before = after;
        }
        if (!with_mox) return;
        for (std::size_t k = 1; k < order.size(); k += 2)
            results[order[k]].to_mox.push_back(times[k] / ((times[k - 1] + times[k + 1]) / 2));
    }

    const allowed_cores& cores;
    std::vector<timed> bodies;
    double limit_batch = 0;
    std::map<int, limit_of> limits;
    std::map<int, std::optional<mox::thread_pool>> pools;
};

}  // namespace bench
