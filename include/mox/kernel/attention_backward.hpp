#pragma once

// Backward: blocks of keys own their dk and dv and pass over blocks of query rows; probabilities are computed
// again from the saved log-sum-exp (FlashAttention, arXiv 2205.14135). The gradient of a query is summed over
// blocks of keys in their order. Where the key/value heads alone would leave threads idle, the keys of a
// sequence are cut into a few parts, whose shares of dq are added in order at the end: the cut depends on the
// sequence alone, so the bits depend on nothing else.

#include <mox/kernel/attention_keys.hpp>
#include <mox/kernel/attention_received.hpp>
#include <mox/kernel/dot.hpp>

namespace mox::inline MOX_ABI::kernel {

namespace detail {

// Keys of a block and query rows of a block: probabilities and their gradients are 32 KB each, the block's
// keys and values with their gradients 160 KB.
inline constexpr index_t backward_keys = 128;
inline constexpr index_t backward_rows = 66;
// Units of work a sequence should have at least, for threads to share; parts of its keys at most (each has a
// copy of dq), and keys of a part at least. The copies cost no time: with 2048 keys and 8 heads, 1, 2, 4
// parts take one thread the same within the 7 % that runs differ by.
inline constexpr index_t backward_units = 16;
inline constexpr index_t backward_parts = 8;
inline constexpr index_t part_keys = 256;

// The keys of a sequence in parts of whole blocks.
struct key_parts {
    index_t size, count;

    key_parts(index_t kv_heads, index_t keys) {
        const index_t wanted = std::min(backward_parts, divide_up(backward_units, kv_heads));
        const index_t parts = std::clamp<index_t>(keys / part_keys, 1, wanted);
        size = std::max(backward_keys, round_up(divide_up(keys, parts), backward_keys));
        count = std::max<index_t>(1, divide_up(keys, size));
    }
};

// The memory of a worker: one part of the keys of one key/value head, the queries of one head.
template <class T, class Arch>
struct backward_memory {
    static constexpr index_t L = simd::lanes<T, Arch>;
    static constexpr index_t stride = backward_keys + L;

    T *kt, *vt, *k, *dk, *dv, *dreceived;
    T *q, *dout, *dq, *delta, *shift;
    T *prob, *dscore;

    static index_t size(index_t d, index_t keys, index_t queries) {
        const index_t dp = round_up(d, L);
        keys = round_up(keys, panel_width<T, Arch>);
        return round_up(keys * (2 * d + 3 * dp + 1) + queries * (3 * dp) + 2 * round_up(queries, L) +
                            2 * backward_rows * stride,
                        alignment);
    }
    backward_memory(T* memory, index_t d, index_t keys, index_t queries) {
        const index_t dp = round_up(d, L);
        keys = round_up(keys, panel_width<T, Arch>);
        const auto take = [&](index_t n) {
            memory += n;
            return memory - n;
        };
        kt = take(keys * d);
        vt = take(keys * d);
        k = take(keys * dp);
        dk = take(keys * dp);
        dv = take(keys * dp);
        dreceived = take(keys);
        q = take(queries * dp);
        dout = take(queries * dp);
        dq = take(queries * dp);
        delta = take(round_up(queries, L));
        shift = take(round_up(queries, L));
        prob = take(backward_rows * stride);
        dscore = take(backward_rows * stride);
    }
};

// Scores -> probabilities, their gradients -> gradients of the scores. dreceived: of the block's keys, or
// null.
template <class T, class Arch>
MOX_NOINLINE void probability_gradients(const visible_block& tile_block, T* prob, T* dscore, index_t stride,
                                        const T* shift, const T* delta, const T* dreceived) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    for (index_t r = 0; r < tile_block.count; ++r) {
        const index_t n = tile_block.keys(r);
        const batch by(shift[r]), mean(delta[r]);
        T* p = prob + r * stride;
        T* g = dscore + r * stride;
        // The last register may reach beyond what the row sees; nobody reads that.
        for (index_t j = 0; j < n; j += L) {
            const batch e = simd::weight(simd::load<T, Arch>(p + j) - by);
            batch de = simd::load<T, Arch>(g + j) - mean;
            if (dreceived) de = de + simd::load<T, Arch>(dreceived + j);
            simd::store(p + j, e);
            simd::store(g + j, e * de);
        }
    }
}

// to[j] += sum over the rows that see key j of weights[r][j] * row r of x: rows that see only a part of a
// tile of keys one by one, the others in a tile.
template <class T, class Arch>
void block_transposed_product(const visible_block& tile_block, const T* weights, index_t stride, const T* x,
                              index_t ldx, index_t dp, T* to) {
    constexpr index_t W = panel_width<T, Arch>, L = simd::lanes<T, Arch>;
    const T* weight_rows[backward_rows];
    const T* x_rows[backward_rows];
    for (index_t r = 0; r < tile_block.count; ++r) {
        weight_rows[r] = weights + r * stride;
        x_rows[r] = x + r * ldx;
    }
    even_tiles(tile_block.last - tile_block.first, product_rows, [&](index_t key, index_t tile) {
        // Row block.row(j) is the first that sees key j; all rows from `all` on see the whole tile.
        const index_t all = tile_block.row(key + tile - 1);
        for (index_t j = key; j < key + tile && tile_block.row(j) < all; ++j) {
            const index_t r = tile_block.row(j);
            add_weighted_row<T, Arch>(weight_rows[r] + j, stride, x_rows[r], ldx, dp, all - r, to + j * dp);
        }
        for (index_t c = 0; c < dp; c += W) {
            tile_table<T, Arch>::outer(tile, std::min(W, dp - c) / L, weight_rows + all, key, x_rows + all, c,
                                       tile_block.count - all, to + key * dp + c, dp, true);
        }
    });
}

// What all units of a backward pass share.
template <class T>
struct backward_arguments {
    attention_shape shape;
    matrix_view<const T> q, k, v, out, dout;
    const T* lse;
    const T* dreceived;  ///< or null
    const T* means;      ///< of dreceived, [query rows x heads]; null with it
};

// One part of the keys [first, last) of a key/value head against all queries that see it. dq of head
// kv_head * group + h: rows of dp values from row first_query(first) on at partial + h * n_q * dp, or, where
// there is only one part, straight to the result.
template <class T, class Arch>
void backward_part(const backward_arguments<T>& a, const attention_sequence& sequence, index_t kv_head,
                   index_t first_key, index_t last_key, const backward_memory<T, Arch>& m, T* partial,
                   matrix_view<T> dq, matrix_view<T> dk, matrix_view<T> dv) {
    constexpr index_t L = simd::lanes<T, Arch>, stride = backward_memory<T, Arch>::stride;
    const attention_shape& s = a.shape;
    const index_t d = s.head_dim, dp = round_up(d, L), group = s.heads / s.kv_heads;
    const index_t keys = last_key - first_key;
    const auto part_of = [&](matrix_view<const T> x) {
        return x.middle_rows(sequence.k0 + first_key, keys).middle_cols(kv_head * d, d);
    };
    pack_transposed<T, Arch>(part_of(a.k), score_factor<T>(s), m.kt);
    pack_transposed<T, Arch>(part_of(a.v), T(1), m.vt);
    // Rows without gaps are worth their copy when many others pass over them.
    const bool lying = dp == d && sequence.n_q <= few_rows;
    if (!lying) pack_rows<T, Arch>(part_of(a.k), m.k, dp);
    const T* k = lying ? part_of(a.k).data : m.k;
    const index_t ldk = lying ? a.k.stride : dp;
    const index_t padded = panel_layout<T, Arch>::padded(keys);
    const panel_view<const T, Arch> key_panels(m.kt, d, padded), value_panels(m.vt, d, padded);
    if (a.dreceived) {
        std::copy_n(a.dreceived + sequence.k0 + first_key, keys, m.dreceived);
        std::fill(m.dreceived + keys, m.dreceived + padded, T(0));
    }
    std::fill_n(m.dk, keys * dp, T(0));
    std::fill_n(m.dv, keys * dp, T(0));

    // Rows and keys are counted from the first of this part.
    const index_t first_row = std::min(sequence.n_q, sequence.first_query(first_key));
    const index_t queries = sequence.n_q - first_row, row0 = sequence.q0 + first_row;
    attention_sequence here = sequence;
    here.n_q = queries;
    here.n_k = sequence.n_k - first_key;
    for (index_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        const auto rows_of = [&](auto x) { return x.middle_rows(row0, queries).middle_cols(head * d, d); };
        if (!lying) pack_rows<T, Arch>(rows_of(a.q), m.q, dp);
        if (!lying) pack_rows<T, Arch>(rows_of(a.dout), m.dout, dp);
        const T* q = lying ? rows_of(a.q).data : m.q;
        const T* dout = lying ? rows_of(a.dout).data : m.dout;
        const index_t ldq = lying ? a.q.stride : dp, ldg = lying ? a.dout.stride : dp;
        for (index_t r = 0; r < queries; ++r) {
            const index_t at = (row0 + r) * s.heads + head;
            m.shift[r] = a.lse[at] * simd::weight_unit<T>;
            m.delta[r] = dot_row<T, Arch>(dout + r * ldg, a.out.row(row0 + r) + head * d, d);
            if (a.means) m.delta[r] += a.means[at];
        }
        T* to = partial ? partial + (head - kv_head * group) * sequence.n_q * dp : m.dq;
        std::fill_n(to, queries * dp, T(0));
        for (index_t first = 0; first < keys; first += backward_keys) {
            const index_t last = std::min(keys, first + backward_keys);
            for (index_t begin = here.first_query(first); begin < queries; begin += backward_rows) {
                const index_t count = std::min(backward_rows, queries - begin);
                const index_t seen = std::min(last, here.visible(begin + count - 1));
                const visible_block tile_block{here, begin, count, first, seen};
                block_products<T, Arch>(tile_block, q + begin * ldq, ldq, key_panels, m.prob, stride);
                block_products<T, Arch>(tile_block, dout + begin * ldg, ldg, value_panels, m.dscore, stride);
                probability_gradients<T, Arch>(tile_block, m.prob, m.dscore, stride, m.shift + begin,
                                               m.delta + begin, a.dreceived ? m.dreceived + first : nullptr);
                block_weighted_rows<T, Arch>(tile_block, m.dscore, stride, k + first * ldk, ldk, dp, nullptr,
                                             to + begin * dp);
                block_transposed_product<T, Arch>(tile_block, m.dscore, stride, q + begin * ldq, ldq, dp,
                                                  m.dk + first * dp);
                block_transposed_product<T, Arch>(tile_block, m.prob, stride, dout + begin * ldg, ldg, dp,
                                                  m.dv + first * dp);
            }
        }
        if (partial) continue;
        for (index_t r = 0; r < queries; ++r) {
            T* row = dq.row(row0 + r) + head * d;
            for (index_t c = 0; c < d; ++c) row[c] = to[r * dp + c] * static_cast<T>(s.scale);
        }
    }
    for (index_t j = 0; j < keys; ++j) {
        T* dk_row = dk.row(sequence.k0 + first_key + j) + kv_head * d;
        T* dv_row = dv.row(sequence.k0 + first_key + j) + kv_head * d;
        for (index_t c = 0; c < d; ++c) dk_row[c] = m.dk[j * dp + c] * static_cast<T>(s.scale);
        for (index_t c = 0; c < d; ++c) dv_row[c] = m.dv[j * dp + c];
    }
}

}  // namespace detail

/// Gradients of attention_forward. out and lse are what forward left; dq, dk, dv are overwritten. dreceived:
/// per key row the gradient of forward's `received`, or null. Bit-identical for any number of threads.
template <class T, class Arch = simd::default_arch>
void attention_backward(executor_ref exec, arena& scratch, const attention_shape& s,
                        const attention_rows& rows, std::type_identity_t<matrix_view<const T>> q,
                        std::type_identity_t<matrix_view<const T>> k,
                        std::type_identity_t<matrix_view<const T>> v,
                        std::type_identity_t<matrix_view<const T>> out, const T* lse,
                        std::type_identity_t<matrix_view<const T>> dout, matrix_view<T> dq, matrix_view<T> dk,
                        matrix_view<T> dv, const T* dreceived = nullptr) {
    using namespace detail;
    using memory_type = backward_memory<T, Arch>;
    const arena_scope scope(scratch);
    const longest_rows longest(rows);
    const index_t d = s.head_dim, dp = round_up(d, simd::lanes<T, Arch>), group = s.heads / s.kv_heads;

    backward_arguments<T> arguments{s, q, k, v, out, dout, lse, dreceived, nullptr};
    if (dreceived) {
        T* means = scratch.take<T>(rows.query[rows.sequences] * s.heads);
        const arena_scope inner(scratch);
        const packed_keys<T, Arch> packed(scratch, s, rows, false);
        packed.pack(exec, k, v);
        received_means<T, Arch>(exec, scratch, s, rows, packed, q, lse, dreceived, means);
        arguments.means = means;
    }

    const auto parts_of = [&](index_t seq) {
        return key_parts(s.kv_heads, rows.key[seq + 1] - rows.key[seq]);
    };
    const unit_map units(scratch, rows.sequences,
                         [&](index_t seq) { return parts_of(seq).count * s.kv_heads; });
    // Shares of dq, in rows: [part, head, query] of every sequence with more than one part.
    const unit_map shares(scratch, rows.sequences, [&](index_t seq) {
        const index_t parts = parts_of(seq).count;
        return parts == 1 ? 0 : parts * s.heads * (rows.query[seq + 1] - rows.query[seq]);
    });
    index_t most_keys = 0;
    for (index_t seq = 0; seq < rows.sequences; ++seq) most_keys = std::max(most_keys, parts_of(seq).size);
    const index_t size = memory_type::size(
        d, std::min(most_keys, round_up(longest.keys, panel_width<T, Arch>)), longest.queries);
    T* memory = scratch.take<T>(workers_for(exec, units.total()) * size);
    T* partial = scratch.take<T>(shares.total() * dp);

    for_each_with_worker(exec, units.total(), [&](index_t unit, index_t worker) {
        const auto [seq, at] = units.find(unit);
        const attention_sequence sequence(s, rows, seq);
        const key_parts parts = parts_of(seq);
        // The first keys are seen most: they go first, so that the last units to be taken are short.
        const index_t part = at / s.kv_heads, kv_head = at % s.kv_heads;
        const index_t first = part * parts.size, last = std::min(sequence.n_k, first + parts.size);
        T* share =
            parts.count == 1
                ? nullptr
                : partial + (shares.first(seq) + (part * s.heads + kv_head * group) * sequence.n_q) * dp;
        backward_part<T, Arch>(arguments, sequence, kv_head, first, last,
                               memory_type(memory + worker * size, d,
                                           std::min(most_keys, round_up(longest.keys, panel_width<T, Arch>)),
                                           longest.queries),
                               share, dq, dk, dv);
    });

    if (shares.total() == 0) return;
    for (index_t seq = 0; seq < rows.sequences; ++seq) {
        const attention_sequence sequence(s, rows, seq);
        const key_parts parts = parts_of(seq);
        if (parts.count == 1) continue;
        const T* from = partial + shares.first(seq) * dp;
        parallel_ranges(exec, sequence.n_q, rows_per_unit, [&](index_t begin, index_t end) {
            for (index_t i = begin; i < end; ++i) {
                for (index_t head = 0; head < s.heads; ++head) {
                    T* to = dq.row(sequence.q0 + i) + head * d;
                    for (index_t p = 0; p < parts.count; ++p) {
                        const index_t first_row = sequence.first_query(p * parts.size);
                        if (i < first_row) break;
                        const T* share = from + ((p * s.heads + head) * sequence.n_q + i - first_row) * dp;
                        for (index_t c = 0; c < d; ++c) to[c] = p == 0 ? share[c] : to[c] + share[c];
                    }
                    for (index_t c = 0; c < d; ++c) to[c] *= static_cast<T>(s.scale);
                }
            }
        });
    }
}

}  // namespace mox::inline MOX_ABI::kernel
