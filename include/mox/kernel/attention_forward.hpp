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
    bool columns;            ///< keep complete rows and add them into the columns
    index_t stride, blocks;  ///< of the weights of a row; key blocks of the longest

    forward_cut(bool columns_, index_t longest)
        : columns(columns_),
          stride((columns ? round_up(longest, panel_width<T, Arch>) : key_block) + simd::lanes<T, Arch>),
          blocks(columns ? divide_up(longest, key_block) : 1) {}

    index_t rows(index_t keys) const { return columns ? column_rows(keys) : query_rows; }
    // Rows of a unit: a block, or some that share a partial sum of the columns.
    index_t unit_rows(const attention_sequence& sequence) const {
        const index_t step = rows(sequence.n_k);
        if (!columns) return step;
        return step * std::max<index_t>(1, divide_up(divide_up(sequence.n_q, step), most_partial_sums));
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
    const forward_cut<T, Arch> cut(received && columns_fit(longest.keys), longest.keys);
    // The second pass over longer rows needs the sums of the first.
    const bool again = received && !cut.columns;
    if (again && lse == nullptr) lse = scratch.take<T>(rows.query[rows.sequences] * s.heads);
    const unit_map units(scratch, rows.sequences, [&](index_t seq) {
        const attention_sequence sequence(s, rows, seq);
        return divide_up(sequence.n_q, cut.unit_rows(sequence)) * s.heads;
    });
    const index_t workers = workers_for(exec, units.total());
    softmax* softmaxes = scratch.take<softmax>(workers);
    const index_t block_size = query_rows * (dp + cut.stride) + cut.blocks * softmax::rows;
    T* memory = scratch.take<T>(workers * round_up(block_size, alignment));
    T* partial = cut.columns ? scratch.take<T>(units.total() * cut.stride) : nullptr;

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
        T* mixed = memory + worker * round_up(block_size, alignment);
        T* shifts = mixed + query_rows * dp;
        T* scores = shifts + cut.blocks * softmax::rows;
        T* columns = partial ? partial + unit * cut.stride : nullptr;
        if (columns) std::fill_n(columns, sequence.n_k, T(0));

        const index_t step = cut.rows(sequence.n_k);
        for (index_t begin = unit_begin; begin < unit_end; begin += step) {
            const index_t count = std::min(step, unit_end - begin), row = sequence.q0 + begin;
            std::fill_n(mixed, count * dp, T(0));
            state.start(count);
            const index_t seen = sequence.visible(begin + count - 1);
            for (index_t first = 0; first < seen; first += key_block) {
                const visible_block block{sequence, begin, count, first, std::min(seen, first + key_block)};
                T* kept = columns ? scores + first : scores;
                T* shift = columns ? shifts + first / key_block * softmax::rows : shifts;
                block_products<T, Arch>(block, q.row(row) + head * d, q.stride, panels, kept, cut.stride);
                state.pass(block, kept, cut.stride, shift);
                block_weighted_rows<T, Arch>(block, kept, cut.stride, values + first * ldv, ldv, dp,
                                             state.carry, mixed);
            }
            state.finish(count, mixed, dp, out.middle_rows(row, count).middle_cols(head * d, d));
            for (index_t r = 0; lse && r < count; ++r) lse[(row + r) * s.heads + head] = state.log_sum_exp(r);
            for (index_t first = 0; columns && first < seen; first += key_block) {
                const visible_block block{sequence, begin, count, first, std::min(seen, first + key_block)};
                T* shift = shifts + first / key_block * softmax::rows;
                for (index_t r = 0; r < softmax::rows; r += simd::lanes<T, Arch>) {
                    const auto weight =
                        simd::weight(simd::load<T, Arch>(shift + r) - simd::load<T, Arch>(state.largest + r));
                    simd::store(shift + r, weight * simd::load<T, Arch>(state.inverse + r));
                }
                add_columns<T, Arch>(block, scores + first, cut.stride, shift, columns + first);
            }
        }
    });

    if (again) {
        received_from_scores<T, Arch>(exec, scratch, s, rows, packed, q, lse, received);
    } else if (received) {
        for (index_t seq = 0; seq < rows.sequences; ++seq) {
            const index_t n_k = rows.key[seq + 1] - rows.key[seq];
            T* to = received + rows.key[seq];
            std::fill_n(to, n_k, T(0));
            for (index_t u = units.first(seq); u < units.first(seq + 1); ++u) {
                const T* from = partial + u * cut.stride;
                for (index_t j = 0; j < n_k; ++j) to[j] += from[j];
            }
        }
    }
}

}  // namespace mox::inline MOX_ABI::kernel
