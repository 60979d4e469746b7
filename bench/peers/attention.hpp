#pragma once

// Attention as an engineer writes it with a library of matrix products: blocks of queries against all keys
// they see, softmax of the rows, times the values.

#include <algorithm>
#include <memory>
#include <string>

#include "peers/product.hpp"
#include "support/agreement.hpp"
#include "support/attention_steps.hpp"

namespace bench {

template <class Peer>
class blockwise_attention : attention_steps {
public:
    // mox's result is in `out` when the base is made.
    explicit blockwise_attention(attention_sizes sizes)
        : attention_steps(sizes, 1), map(most * sizes.keys), result(out.size()) {
        run();
        must_agree(Peer::name, "attention", {result.data(), static_cast<std::size_t>(result.size())},
                   {out.data(), static_cast<std::size_t>(out.size())}, float_bound);
    }

    void run() {
        const index_t n_q = s.sequences * s.queries, n_k = s.sequences * s.keys;
        const float* data = qkv.data();
        const view q = part(data, 0, s.heads, n_q), k = part(data, s.heads, s.kv_heads, n_k),
                   v = part(data, s.heads + s.kv_heads, s.kv_heads, n_k);
        const target o(result.data(), n_q, s.heads * s.d);
        for (index_t sequence = 0; sequence < s.sequences; ++sequence) {
            for (index_t head = 0; head < s.heads; ++head) {
                const index_t of_kv = head / (s.heads / s.kv_heads) * s.d;
                const auto rows = [&](auto m, index_t column, index_t first, index_t count) {
                    return m.middle_cols(column, s.d).middle_rows(first, count);
                };
                for (index_t first = 0; first < s.queries; first += block) {
                    const index_t n = std::min(block, s.queries - first);
                    const index_t before = s.causal ? s.keys - s.queries + first : s.keys - 1;
                    const index_t seen = s.causal ? before + n : s.keys;
                    const index_t row = sequence * s.queries + first;
                    attend(rows(q, head * s.d, row, n), rows(k, of_kv, sequence * s.keys, seen),
                           rows(v, of_kv, sequence * s.keys, seen), rows(o, head * s.d, row, n), before);
                }
            }
        }
    }

private:
    static constexpr index_t most = 128;
    // Of 32, 64, 128 and 256, with OpenBLAS: 128 was the fastest at 2048 keys, 64 or 32 at 65 and 128.
    const index_t block = s.keys > 1024 ? most : 64;

    // The first query sees one key more than `before`, every further one another.
    void attend(view q, view k, view v, target o, index_t before) {
        const target scores(map.data(), q.rows, k.rows);
        peer.product(form::nt, q, k, scores);
        Eigen::Array<float, most, 1> norm;
        for (index_t i = 0; i < q.rows; ++i) {
            const index_t visible = std::min(k.rows, before + 1 + (s.causal ? i : 0));
            Eigen::Map<Eigen::ArrayXf> row(scores.row(i), visible);
            row = ((row - row.maxCoeff()) * 0.125f).exp();
            norm(i) = 1 / row.sum();
            std::fill(scores.row(i) + visible, scores.row(i) + k.rows, 0.0f);
        }
        peer.product(form::nn, scores, v, o);
        for (index_t i = 0; i < q.rows; ++i) eigen(o).row(i) *= norm(i);
    }

    Peer peer;
    mox::buffer<float> map, result;
};

template <class Peer>
void add_attention() {
    for (const attention_sizes& s : attention_shapes) {
        add_competitor("attention/forward/" + s.name(),
                       {Peer::name, [s] {
                            auto layer = std::make_shared<blockwise_attention<Peer>>(s);
                            return [layer] { layer->run(); };
                        }});
    }
}

}  // namespace bench
