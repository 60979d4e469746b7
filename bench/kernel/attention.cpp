// Attention alone, without its projections: operations are counted on the causal half of the map only.

#include <string>
#include <vector>

#include "support/steps.hpp"

namespace {

using mox::index_t;
using mox::row_t;

struct sizes {
    index_t sequences = 1, queries = 2048, keys = 2048, heads = 8, kv_heads = 8;
    bool causal = true;
    static constexpr index_t d = 64;

    /// Pairs of a query and a key it sees, over all heads.
    double pairs() const {
        const double all = static_cast<double>(queries) * static_cast<double>(keys);
        const double unseen =
            causal ? static_cast<double>(queries) * static_cast<double>(queries - 1) / 2 : 0.0;
        return static_cast<double>(sequences * heads) * (all - unseen);
    }
    std::string name() const {
        std::string text = "N" + std::to_string(sequences) + "_T" + std::to_string(queries);
        if (keys != queries) text += "_keys" + std::to_string(keys);
        text += "_h" + std::to_string(heads);
        if (kv_heads != heads) text += "_kv" + std::to_string(kv_heads);
        return text + "_d" + std::to_string(d) + (causal ? "" : "_full");
    }
};

struct attention_steps {
    sizes s;
    mox::thread_pool pool;
    mox::executor_ref exec;
    mox::arena scratch;
    std::vector<row_t> query{0}, key{0};
    mox::buffer<float> qkv, dqkv, out, dout, lse, received;

    attention_steps(sizes s_, index_t threads)
        : s(s_), pool(threads), exec(pool),
          qkv(bench::random_rows(s.sequences * s.keys, (s.heads + 2 * s.kv_heads) * s.d, 1)),
          dqkv(qkv.size()), out(s.sequences * s.queries * s.heads * s.d),
          dout(bench::random_rows(s.sequences * s.queries, s.heads * s.d, 2)),
          lse(s.sequences * s.queries * s.heads), received(s.sequences * s.keys) {
        for (index_t i = 1; i <= s.sequences; ++i) {
            query.push_back(static_cast<row_t>(i * s.queries));
            key.push_back(static_cast<row_t>(i * s.keys));
        }
        infer();
        forward();
        read_received();
        scratch.reset();
    }

    // Queries, keys and values lie side by side, as the layer has them.
    template <class T>
    mox::matrix_view<T> part(T* data, index_t first, index_t heads, index_t rows) const {
        return {data + first * s.d, rows, heads * s.d, (s.heads + 2 * s.kv_heads) * s.d};
    }
    void attend(float* save, float* columns) {
        const index_t n_q = s.sequences * s.queries, n_k = s.sequences * s.keys;
        const float* x = qkv.data();
        mox::kernel::attention_forward<float>(
            exec, scratch, {s.heads, s.kv_heads, s.d, s.causal, 0.125},
            {query.data(), key.data(), s.sequences}, part(x, 0, s.heads, n_q),
            part(x, s.heads, s.kv_heads, n_k), part(x, s.heads + s.kv_heads, s.kv_heads, n_k),
            mox::matrix_view<float>(out.data(), n_q, s.heads * s.d), save, columns);
    }
    void infer() { attend(nullptr, nullptr); }
    void forward() { attend(lse.data(), nullptr); }
    void read_received() { attend(lse.data(), received.data()); }
    void backward() {
        const index_t n_q = s.sequences * s.queries, n_k = s.sequences * s.keys;
        const float* x = qkv.data();
        float* dx = dqkv.data();
        mox::kernel::attention_backward<float>(
            exec, scratch, {s.heads, s.kv_heads, s.d, s.causal, 0.125},
            {query.data(), key.data(), s.sequences}, part(x, 0, s.heads, n_q),
            part(x, s.heads, s.kv_heads, n_k), part(x, s.heads + s.kv_heads, s.kv_heads, n_k),
            mox::matrix_view<const float>(out.data(), n_q, s.heads * s.d), lse.data(),
            mox::matrix_view<const float>(dout.data(), n_q, s.heads * s.d), part(dx, 0, s.heads, n_q),
            part(dx, s.heads, s.kv_heads, n_k), part(dx, s.heads + s.kv_heads, s.kv_heads, n_k));
    }
};

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
    groups.push_back(
        {"attention/two_threads/forward/" + s.name(),
         2 * product,
         bench::limit::fma_f32,
         goals,
         {{"mox", run(&attention_steps::forward, s, 2)}, {"one_thread", run(&attention_steps::forward, s)}}});
    groups.push_back({"attention/two_threads/backward/" + s.name(),
                      5 * product,
                      bench::limit::fma_f32,
                      goals,
                      {{"mox", run(&attention_steps::backward, s, 2)},
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
