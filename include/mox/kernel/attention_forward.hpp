#pragma once

// Forward: blocks of query rows pass over blocks of keys, so that memory does not depend on the length of a
// row (FlashAttention, arXiv 2205.14135). When the attention received is wanted and complete rows of weights
// fit the cache, they are kept and added into the columns as soon as their rows are finished; longer ones
// pass a second time over the scores.

#include <mox/kernel/attention_decode.hpp>
#include <mox/kernel/attention_keys.hpp>
#include <mox/kernel/attention_received.hpp>
#include <mox/kernel/attention_softmax.hpp>

namespace mox::inline MOX_ABI::kernel {

namespace detail {

// How the query rows are cut, and where their weights lie.
template <class T, class Arch>
struct forward_cut {
    bool columns;  ///< keep complete rows and add them into the columns
    index_t heads;

    /// Between the weights of two rows.
    index_t stride(index_t keys) const {
        return (columns ? round_up(keys, panel_width<T, Arch>) : key_block) + simd::lanes<T, Arch>;
    }
    index_t rows(index_t keys) const { return columns ? column_rows(keys) : query_rows; }
    /// Values of a block's weights, for sequences of up to `keys` keys.
    index_t size(index_t keys) const {
        const index_t most = query_rows * stride(keys), gaps = query_rows * stride(1);
        return columns ? std::min(most, column_values + gaps) : most;
    }
    // Rows of a unit: a block, or some that share a partial sum of the columns.
    index_t unit_rows(const attention_sequence& sequence) const {
        const index_t step = rows(sequence.n_k);
        if (!columns) return step;
        return step * std::max<index_t>(1, divide_up(divide_up(sequence.n_q, step), most_partial_sums));
    }
    index_t units(const attention_sequence& sequence) const {
        return divide_up(sequence.n_q, unit_rows(sequence)) * heads;
    }
};

}  // namespace detail

/// out = softmax(scale q k') v per head; q and out: heads * head_dim columns, k and v: kv_heads * head_dim.
/// lse: [query rows x heads], the natural logarithm of the rows' sums of exponentials, or null. received: per
/// key row the sum over heads and queries of its probabilities, overwritten, or null. Bit-identical for any
/// number of threads.
template <class T, class Arch = simd::default_arch>
void attention_forward(executor_ref exec, arena& scratch, const attention_shape& s,
                       const attention_rows& rows, std::type_identity_t<matrix_view<const T>> q,
                       std::type_identity_t<matrix_view<const T>> k,
                       std::type_identity_t<matrix_view<const T>> v, matrix_view<T> out, T* lse,
                       T* received) {
    using namespace detail;
    using softmax = running_softmax<T, Arch>;
    const arena_scope scope(scratch);
    const longest_rows longest(rows);
    if (longest.queries < product_rows && longest.keys > longest.queries && received == nullptr) {
        attention_few_queries<T, Arch>(exec, scratch, s, rows, q, k, v, out, lse, longest);
        return;
    }
    const index_t d = s.head_dim, dp = round_up(d, simd::lanes<T, Arch>), group = s.heads / s.kv_heads;

    // Values that few tiles of rows read are read where they lie.
    const bool lying = dp == d && longest.queries * group <= few_rows;
    const packed_keys<T, Arch> packed(scratch, s, rows, !lying);
    packed.pack(exec, k, v);
    const forward_cut<T, Arch> cut{received && columns_fit(longest.keys), s.heads};
    // The second pass over longer rows needs the sums of the first.
    const bool again = received && !cut.columns;
    if (again && lse == nullptr) lse = scratch.take<T>(rows.query[rows.sequences] * s.heads);
    const unit_map units(scratch, rows.sequences,
                         [&](index_t seq) { return cut.units(attention_sequence(s, rows, seq)); });
    // Partial sums of the columns, in values.
    const unit_map sums(scratch, rows.sequences, [&](index_t seq) {
        const attention_sequence sequence(s, rows, seq);
        return cut.columns ? cut.units(sequence) * cut.stride(sequence.n_k) : 0;
    });
    T* partial = scratch.take<T>(sums.total());
    const index_t workers = workers_for(exec, units.total());
    const index_t blocks = cut.columns ? divide_up(longest.keys, key_block) : 1;
    const index_t size =
        round_up(query_rows * dp + blocks * softmax::rows + cut.size(longest.keys), alignment);
    softmax* softmaxes = scratch.take<softmax>(workers);
    T* memory = scratch.take<T>(workers * size);

    for_each_with_worker(exec, units.total(), [&](index_t unit, index_t worker) {
        const auto [seq, part] = units.find(unit);
        const attention_sequence sequence(s, rows, seq);
        const index_t head = part % s.heads, unit_size = cut.unit_rows(sequence);
        // Late rows see most: they go first, so that the last units to be taken are short.
        const index_t unit_begin = (divide_up(sequence.n_q, unit_size) - 1 - part / s.heads) * unit_size;
        const index_t unit_end = std::min(sequence.n_q, unit_begin + unit_size);
        const panel_view<const T, Arch> panels = packed.keys(seq, head / group);
        const T* values = lying ? v.row(sequence.k0) + head / group * d : packed.values(seq, head / group);
        const index_t ldv = lying ? v.stride : dp;
        softmax& state = softmaxes[worker];
        const index_t stride = cut.stride(sequence.n_k);
        T* mixed = memory + worker * size;
        T* shifts = mixed + query_rows * dp;
        T* scores = shifts + blocks * softmax::rows;
        T* columns = cut.columns ? partial + sums.first(seq) + part * stride : nullptr;
        if (columns) std::fill_n(columns, sequence.n_k, T(0));

        const index_t step = cut.rows(sequence.n_k);
        for (index_t begin = unit_begin; begin < unit_end; begin += step) {
            const index_t count = std::min(step, unit_end - begin), row = sequence.q0 + begin;
            std::fill_n(mixed, count * dp, T(0));
            state.start(count);
            const index_t seen = sequence.visible(begin + count - 1);
            for (index_t first = 0; first < seen; first += key_block) {
                const visible_block tile_block{sequence, begin, count, first,
                                               std::min(seen, first + key_block)};
                T* kept = columns ? scores + first : scores;
                T* shift = columns ? shifts + first / key_block * softmax::rows : shifts;
                block_products<T, Arch>(tile_block, q.row(row) + head * d, q.stride, panels, kept, stride);
                state.pass(tile_block, kept, stride, shift);
                block_weighted_rows<T, Arch>(tile_block, kept, stride, values + first * ldv, ldv, dp,
                                             state.carry, mixed);
            }
            state.finish(count, mixed, dp, out.middle_rows(row, count).middle_cols(head * d, d));
            for (index_t r = 0; lse && r < count; ++r) lse[(row + r) * s.heads + head] = state.log_sum_exp(r);
            for (index_t first = 0; columns && first < seen; first += key_block) {
                const visible_block tile_block{sequence, begin, count, first,
                                               std::min(seen, first + key_block)};
                T* shift = shifts + first / key_block * softmax::rows;
                for (index_t r = 0; r < count; r += simd::lanes<T, Arch>) {
                    const auto weight =
                        simd::weight(simd::load<T, Arch>(shift + r) - simd::load<T, Arch>(state.largest + r));
                    simd::store(shift + r, weight * simd::load<T, Arch>(state.inverse + r));
                }
                add_columns<T, Arch>(tile_block, scores + first, stride, shift, columns + first);
            }
        }
    });

    if (again) {
        received_from_scores<T, Arch>(exec, scratch, s, rows, packed, q, lse, received);
    } else if (received) {
        for (index_t seq = 0; seq < rows.sequences; ++seq) {
            const attention_sequence sequence(s, rows, seq);
            T* to = received + sequence.k0;
            std::fill_n(to, sequence.n_k, T(0));
            for (index_t u = 0; u < cut.units(sequence); ++u) {
                const T* from = partial + sums.first(seq) + u * cut.stride(sequence.n_k);
                for (index_t j = 0; j < sequence.n_k; ++j) to[j] += from[j];
            }
        }
    }
}

}  // namespace mox::inline MOX_ABI::kernel
