#pragma once

// The attention received: column sums of the attention maps, in the pass that computes them or from scores
// computed again with the saved log-sum-exp of their rows. The gradient of these sums needs the same
// probabilities once more.

#include <mox/kernel/attention_keys.hpp>
#include <mox/kernel/attention_softmax.hpp>

namespace mox::inline MOX_ABI::kernel::detail {

// Complete rows of weights are kept until their sums are known: as many as fit the second cache level, a tile
// at least, so up to 43690 keys. Measured: 1.03 times the forward time at 24576 keys, where computing the
// scores again takes 1.55 times.
inline constexpr index_t column_values = 1 << 18;
// Partial sums per head of a sequence: few, because each has a number per key, and enough to share between
// threads.
inline constexpr index_t most_partial_sums = 8;

inline index_t column_rows(index_t keys) {
    const index_t rows = column_values / std::max<index_t>(keys, 1) / product_rows * product_rows;
    return std::clamp(rows, product_rows, query_rows);
}
inline bool columns_fit(index_t keys) { return keys * product_rows <= column_values; }

// columns[j] += sum over the rows r that see key j of factor[r] * weights[r][j].
template <class T, class Arch>
MOX_NOINLINE void add_columns(const visible_block& tile_block, const T* weights, index_t stride,
                              const T* factor, T* columns) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    // What all rows see, a register of columns at a time; then what only later rows see.
    const index_t common = tile_block.keys(0) / L * L;
    for (index_t j = 0; j < common; j += L) {
        batch sum = simd::load<T, Arch>(columns + j);
        for (index_t r = 0; r < tile_block.count; ++r) {
            sum = simd::fma(simd::load<T, Arch>(weights + r * stride + j), batch(factor[r]), sum);
        }
        simd::store(columns + j, sum);
    }
    for (index_t r = 0; r < tile_block.count; ++r) {
        const index_t n = tile_block.keys(r);
        const T* row = weights + r * stride;
        for (index_t j = common; j < n; ++j) columns[j] += row[j] * factor[r];
    }
}

// Visits blocks of scores of the query rows [begin, end) of one head against the keys [first_key, last_key):
// visit(block, scores, stride, shift), where simd::weight(score - shift[row]) is a probability. `memory`:
// `size` values.
template <class T, class Arch>
struct saved_scores {
    static constexpr index_t L = simd::lanes<T, Arch>;
    static constexpr index_t stride = key_block + L;
    static constexpr index_t size = round_up(query_rows * stride + padded_query_rows<T, Arch>, alignment);

    template <class Visit>
    static void visit(const attention_shape& s, const attention_sequence& sequence, index_t head,
                      panel_view<const T, Arch> panels, matrix_view<const T> q, const T* lse, index_t begin,
                      index_t end, index_t first_key, index_t last_key, T* memory, Visit&& visit) {
        T* scores = memory;
        T* shift = scores + query_rows * stride;
        for (; begin < end; begin += query_rows) {
            const index_t count = std::min(query_rows, end - begin), row = sequence.q0 + begin;
            for (index_t r = 0; r < count; ++r)
                shift[r] = lse[(row + r) * s.heads + head] * simd::weight_unit<T>;
            const index_t seen = std::min(last_key, sequence.visible(begin + count - 1));
            for (index_t first = first_key; first < seen; first += key_block) {
                const visible_block tile_block{sequence, begin, count, first,
                                               std::min(seen, first + key_block)};
                block_products<T, Arch>(tile_block, q.row(row) + head * s.head_dim, q.stride, panels, scores,
                                        stride);
                visit(tile_block, scores, stride, shift);
            }
        }
    }
};

// columns[j] += sum over the rows r that see key j of their probabilities.
template <class T, class Arch>
MOX_NOINLINE void add_probabilities(const visible_block& tile_block, const T* scores, index_t stride,
                                    const T* shift, T* columns) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    const index_t common = tile_block.keys(0) / L * L;
    for (index_t j = 0; j < common; j += L) {
        batch sum = simd::load<T, Arch>(columns + j);
        for (index_t r = 0; r < tile_block.count; ++r)
            sum = sum + simd::weight(simd::load<T, Arch>(scores + r * stride + j) - batch(shift[r]));
        simd::store(columns + j, sum);
    }
    for (index_t r = 0; r < tile_block.count; ++r) {
        const index_t n = tile_block.keys(r);
        for (index_t j = common; j < n; j += L) {
            const index_t valid = std::min(L, n - j);
            const batch p = simd::weight(simd::load<T, Arch>(scores + r * stride + j) - batch(shift[r]));
            simd::store_upto(columns + j, simd::load_upto<T, Arch>(columns + j, valid) + p, valid);
        }
    }
}

// The second pass over rows that are too long to be kept. A block of keys is the unit of work and owns its
// columns: no partial sums, one order.
template <class T, class Arch>
void received_from_scores(executor_ref exec, arena& scratch, const attention_shape& s,
                          const attention_rows& rows, const packed_keys<T, Arch>& packed,
                          matrix_view<const T> q, const T* lse, T* received) {
    const index_t group = s.heads / s.kv_heads;
    const unit_map units(scratch, rows.sequences, [&](index_t seq) {
        return divide_up(rows.key[seq + 1] - rows.key[seq], key_block);
    });
    constexpr index_t size = saved_scores<T, Arch>::size;
    T* memory = scratch.take<T>(workers_for(exec, units.total()) * size);
    for_each_with_worker(exec, units.total(), [&](index_t unit, index_t worker) {
        const auto [seq, part] = units.find(unit);
        const attention_sequence sequence(s, rows, seq);
        const index_t first = part * key_block, last = std::min(sequence.n_k, first + key_block);
        T* columns = received + sequence.k0 + first;
        std::fill_n(columns, last - first, T(0));
        for (index_t head = 0; head < s.heads; ++head) {
            saved_scores<T, Arch>::visit(
                s, sequence, head, packed.keys(seq, head / group), q, lse, sequence.first_query(first),
                sequence.n_q, first, last, memory + worker * size,
                [&](const visible_block& tile_block, const T* scores, index_t stride, const T* shift) {
                    add_probabilities<T, Arch>(tile_block, scores, stride, shift, columns);
                });
        }
    });
}

// mean[row][head] = sum over keys j of probability(row, j) * dreceived[j]: what the gradient of the attention
// received adds to the mean that the backward pass of a softmax subtracts.
template <class T, class Arch>
void received_means(executor_ref exec, arena& scratch, const attention_shape& s, const attention_rows& rows,
                    const packed_keys<T, Arch>& packed, matrix_view<const T> q, const T* lse,
                    const T* dreceived, T* mean) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    const index_t group = s.heads / s.kv_heads;
    const unit_map units(scratch, rows.sequences, [&](index_t seq) {
        return divide_up(rows.query[seq + 1] - rows.query[seq], query_rows) * s.heads;
    });
    constexpr index_t size = saved_scores<T, Arch>::size;
    T* memory = scratch.take<T>(workers_for(exec, units.total()) * size);
    for_each_with_worker(exec, units.total(), [&](index_t unit, index_t worker) {
        const auto [seq, part] = units.find(unit);
        const attention_sequence sequence(s, rows, seq);
        const index_t head = part % s.heads, begin = part / s.heads * query_rows;
        const index_t end = std::min(sequence.n_q, begin + query_rows);
        alignas(64) T sums[query_rows * L] = {};
        saved_scores<T, Arch>::visit(
            s, sequence, head, packed.keys(seq, head / group), q, lse, begin, end, 0, sequence.n_k,
            memory + worker * size,
            [&](const visible_block& tile_block, const T* scores, index_t stride, const T* shift) {
                const T* gradient = dreceived + sequence.k0 + tile_block.first;
                for (index_t r = 0; r < tile_block.count; ++r) {
                    batch sum = simd::load<T, Arch>(sums + r * L);
                    simd::for_each<T, Arch>(tile_block.keys(r), [&](index_t j, index_t n) {
                        const batch score = simd::load_upto<T, Arch>(scores + r * stride + j, n);
                        // A register that the row's keys do not fill goes through memory a second time, so
                        // that nothing unseen is multiplied.
                        alignas(64) T p[static_cast<std::size_t>(L)];
                        simd::store(p, simd::weight(score - batch(shift[r])));
                        sum = simd::fma(simd::load_upto<T, Arch>(p, n),
                                        simd::load_upto<T, Arch>(gradient + j, n), sum);
                    });
                    simd::store(sums + r * L, sum);
                }
            });
        for (index_t r = 0; r < end - begin; ++r) {
            mean[(sequence.q0 + begin + r) * s.heads + head] =
                simd::reduce_add(simd::load<T, Arch>(sums + r * L));
        }
    });
}

}  // namespace mox::inline MOX_ABI::kernel::detail
