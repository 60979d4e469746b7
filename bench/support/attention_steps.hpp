#pragma once

// Attention alone, without its projections: operations are counted on the causal half of the map only.

#include <string>
#include <vector>

#include "support/steps.hpp"

namespace bench {

using mox::row_t;

struct attention_sizes {
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

/// The shapes that peers take part in.
inline constexpr attention_sizes attention_shapes[] = {
    {},
    {.kv_heads = 2},
    {.sequences = 8, .queries = 65, .keys = 65, .heads = 3, .kv_heads = 3, .causal = false},
    {.queries = 128, .keys = 128},
};

struct attention_steps {
    attention_sizes s;
    mox::thread_pool pool;
    mox::executor_ref exec;
    mox::arena scratch;
    std::vector<row_t> query{0}, key{0};
    mox::buffer<float> qkv, dqkv, out, dout, lse, received;

    attention_steps(attention_sizes s_, index_t threads)
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

}  // namespace bench
