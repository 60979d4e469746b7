#pragma once

// Keys as panels and values as rows without gaps, once per key/value head for all the queries that read
// them. Panels are the transposed keys, so that scores are products of the usual tile.

#include <mox/kernel/attention_tiles.hpp>

namespace mox::inline MOX_ABI::kernel::detail {

// Keys of a block: 48 x 256 scores are 48 KB, its keys and values 128 KB, all within the second cache level.
inline constexpr index_t key_block = 256;

template <class T, class Arch>
class packed_keys {
public:
    packed_keys(arena& scratch, const attention_shape& s, const attention_rows& rows, bool with_values)
        : shape_(s), rows_(rows), dp_(round_up(s.head_dim, L)), key_rows_(rows.key[rows.sequences]),
          padded_(round_up(key_rows_, L) + rows.sequences * L),
          keys_(scratch.take<T>(padded_ * s.head_dim * s.kv_heads)),
          values_(with_values ? scratch.take<T>(key_rows_ * dp_ * s.kv_heads) : nullptr),
          units_(scratch, rows.sequences, [&](index_t seq) {
              return divide_up(rows.key[seq + 1] - rows.key[seq], key_block) * s.kv_heads;
          }) {}

    void pack(executor_ref exec, matrix_view<const T> k, matrix_view<const T> v) const {
        const index_t d = shape_.head_dim;
        exec.run(units_.total(), [&](index_t unit) {
            const auto [seq, part] = units_.find(unit);
            const index_t head = part % shape_.kv_heads, first = part / shape_.kv_heads * key_block;
            const index_t begin = rows_.key[seq] + first;
            const index_t n = std::min<index_t>(key_block, rows_.key[seq + 1] - begin);
            // A block is whole panels, or the last.
            pack_transposed<T, Arch>(k.middle_rows(begin, n).middle_cols(head * d, d),
                                     score_factor<T>(shape_), keys_at(seq, head) + first * d);
            if (values_) {
                pack_rows<T, Arch>(v.middle_rows(begin, n).middle_cols(head * d, d),
                                   values_at(seq, head) + first * dp_, dp_);
            }
        });
    }

    panel_view<const T, Arch> keys(index_t seq, index_t head) const {
        return {keys_at(seq, head), shape_.head_dim,
                panel_layout<T, Arch>::padded(rows_.key[seq + 1] - rows_.key[seq])};
    }
    /// Rows of head_dim values, padded to whole registers.
    const T* values(index_t seq, index_t head) const { return values_at(seq, head); }

private:
    static constexpr index_t L = simd::lanes<T, Arch>;
    static_assert(key_block % panel_width<T, Arch> == 0);

    T* keys_at(index_t seq, index_t head) const {
        return keys_ + (head * padded_ + round_up(rows_.key[seq], L) + seq * L) * shape_.head_dim;
    }
    T* values_at(index_t seq, index_t head) const {
        return values_ + (head * key_rows_ + rows_.key[seq]) * dp_;
    }

    attention_shape shape_;
    attention_rows rows_;
    index_t dp_, key_rows_, padded_;
    T* keys_;
    T* values_;
    unit_map units_;
};

}  // namespace mox::inline MOX_ABI::kernel::detail
