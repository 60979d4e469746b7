#pragma once

// Decoding: so few queries that packing the keys would cost more than the products. Keys and values are read
// where they lie.

#include <mox/kernel/attention_shape.hpp>
#include <mox/kernel/dot.hpp>
#include <mox/kernel/softmax.hpp>

namespace mox::inline MOX_ABI::kernel::detail {

// One (row, head) a unit.
template <class T, class Arch>
void attention_few_queries(executor_ref exec, arena& scratch, const attention_shape& s,
                           const attention_rows& rows, matrix_view<const T> q, matrix_view<const T> k,
                           matrix_view<const T> v, matrix_view<T> out, T* lse, index_t longest) {
    const index_t d = s.head_dim, group = s.heads / s.kv_heads;
    const T scale = static_cast<T>(s.scale);
    const index_t units = rows.query[rows.sequences] * s.heads;
    const index_t workers = workers_for(exec, units);
    T* memory = scratch.take<T>(workers * longest);
    for_each_with_worker(exec, units, [&](index_t unit, index_t worker) {
        const index_t row = unit / s.heads, head = unit % s.heads;
        index_t seq = 0;
        while (row >= rows.query[seq + 1]) ++seq;
        const attention_sequence sequence(s, rows, seq);
        const index_t n = sequence.visible(row - sequence.q0), at = head / group * d;
        T* p = memory + worker * longest;
        for (index_t j = 0; j < n; ++j) {
            p[j] = scale * dot_row<T, Arch>(q.row(row) + head * d, k.row(sequence.k0 + j) + at, d);
        }
        const T l = softmax_row<T, Arch>(p, n, p);
        if (lse) lse[row * s.heads + head] = l;
        T* to = out.row(row) + head * d;
        std::fill_n(to, d, T(0));
        for (index_t j = 0; j < n; ++j) {
            const T* MOX_RESTRICT value = v.row(sequence.k0 + j) + at;
            for (index_t c = 0; c < d; ++c) to[c] += p[j] * value[c];
        }
    });
}

}  // namespace mox::inline MOX_ABI::kernel::detail
