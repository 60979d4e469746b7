// Attention alone, without its projections, in shapes from decoding to long sequences.

#include "support/attention_steps.hpp"

namespace {

using bench::attention_steps, bench::index_t;
using sizes = bench::attention_sizes;

auto run(void (attention_steps::*step)(), sizes s, index_t threads = 1) {
    return bench::run(step, s, threads);
}

// Two products forward, five backward: the scores again, and a product for each of dP, dQ, dK, dV. forward,
// backward: shares of the limit to reach, or 0.
void add(std::vector<bench::group>& groups, sizes s, double forward, double backward) {
    const double product = 2 * s.pairs() * static_cast<double>(s.d);
    groups.push_back({"attention/forward/" + s.name(),
                      2 * product,
                      bench::limit::fma_f32,
                      {{forward, 0, ""}},
                      {{"mox", run(&attention_steps::forward, s)}}});
    if (s.keys != s.queries) return;
    groups.push_back({"attention/backward/" + s.name(),
                      5 * product,
                      bench::limit::fma_f32,
                      {{backward, 0, ""}},
                      {{"mox", run(&attention_steps::backward, s)}}});
}

void add_received(std::vector<bench::group>& groups, sizes s, double at_most) {
    groups.push_back({"attention/received/" + s.name(),
                      4 * s.pairs() * static_cast<double>(s.d),
                      bench::limit::fma_f32,
                      {{0, 0, "nobody_reads", at_most}},
                      {{"mox", run(&attention_steps::read_received, s)},
                       {"nobody_reads", run(&attention_steps::forward, s)}}});
}

void add_threads(std::vector<bench::group>& groups, sizes s) {
    const double product = 2 * s.pairs() * static_cast<double>(s.d);
    const std::vector<bench::goal> goals{{0, 1.9, "one_thread"}};
    groups.push_back({"attention/two_threads/forward/" + s.name(),
                      2 * product,
                      bench::limit::fma_f32,
                      goals,
                      {{"mox", run(&attention_steps::forward, s, 2), 0, 2},
                       {"one_thread", run(&attention_steps::forward, s)}}});
    groups.push_back({"attention/two_threads/backward/" + s.name(),
                      5 * product,
                      bench::limit::fma_f32,
                      goals,
                      {{"mox", run(&attention_steps::backward, s, 2), 0, 2},
                       {"one_thread", run(&attention_steps::backward, s)}}});
}

const bench::registration registered([](std::vector<bench::group>& groups) {
    add(groups, {}, 0.70, 0.70);
    add(groups, {.heads = 8, .kv_heads = 2}, 0.70, 0.70);
    add(groups, {.queries = 16384, .keys = 16384, .heads = 1, .kv_heads = 1}, 0.70, 0.70);
    // Small ones: a vision transformer, short sentences.
    const sizes vision{.sequences = 8, .queries = 65, .keys = 65, .heads = 3, .kv_heads = 3, .causal = false};
    add(groups, vision, 0.55, 0.60);
    add(groups, {.queries = 128, .keys = 128}, 0.55, 0.60);
    add(groups, {.sequences = 16, .queries = 32, .keys = 32, .heads = 4, .kv_heads = 4}, 0, 0);
    add(groups, {.sequences = 64, .queries = 7, .keys = 7, .heads = 4, .kv_heads = 4}, 0, 0);
    // Decoding: one query and four, and a few more behind a long cache.
    for (const index_t queries : {1, 4, 16}) add(groups, {.queries = queries}, 0, 0);
    add(groups, {.queries = 1, .heads = 8, .kv_heads = 2}, 0, 0);

    // In the pass that computes them, and, for rows too long to be kept, in a second.
    add_received(groups, {}, 1.10);
    add_received(groups, vision, 1.10);
    add_received(groups, {.queries = 8192, .keys = 8192, .heads = 2, .kv_heads = 2}, 1.10);
    add_received(groups, {.queries = 2048, .keys = 65536, .heads = 1, .kv_heads = 1}, 1.60);

    add_threads(groups, {});
    add_threads(groups, {.heads = 8, .kv_heads = 1});
});

}  // namespace
