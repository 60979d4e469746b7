#pragma once

// Decoding: so few queries that packing the keys would cost more than the products. Keys and values are read
// once, where they lie, for all queries and heads that share them; long caches are cut into parts of a fixed
// length that threads share and whose results are joined in order.

#include <cmath>
#include <limits>

#include <mox/kernel/attention_tiles.hpp>
#include <mox/simd/exp_weight.hpp>

namespace mox::inline MOX_ABI::kernel::detail {

// Keys of a part: long enough that joining the parts costs nothing, short enough for a part's scores and
// for every thread to have one.
inline constexpr index_t decode_keys = 512;
// Keys and values in the first cache level while all rows of queries pass them: 32 KB with heads of 128.
// Measured with 8 query heads and 4096 keys, blocks of 32 and of 128: 314 and 364 us with one key/value head
// of 128, 403 and 370 us with two; within 2 % of each other with heads of 64.
inline constexpr index_t decode_block = 32;

// scores[j] = factor * (q . k_j) for j < count <= lanes, whatever behind them.
template <class T, class Arch>
MOX_NOINLINE void few_scores(const T* q, matrix_view<const T> k, index_t count, T factor, T* scores) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    alignas(64) T square[static_cast<std::size_t>(L * L)], columns[static_cast<std::size_t>(L * L)];
    const index_t d = k.cols, whole = d / L * L;
    index_t j = 0;
    for (; j + 2 <= count; j += 2) {
        const T *a = k.row(j), *b = k.row(j + 1);
        batch sum_a(T(0)), sum_b(T(0));
        for (index_t c = 0; c < whole; c += L) {
            const batch x = simd::load<T, Arch>(q + c);
            sum_a = simd::fma(x, simd::load<T, Arch>(a + c), sum_a);
            sum_b = simd::fma(x, simd::load<T, Arch>(b + c), sum_b);
        }
        simd::store(square + j * L, sum_a);
        simd::store(square + (j + 1) * L, sum_b);
    }
    for (; j < L; ++j) {
        batch sum(T(0));
        for (index_t c = 0; j < count && c < whole; c += L)
            sum = simd::fma(simd::load<T, Arch>(q + c), simd::load<T, Arch>(k.row(j) + c), sum);
        simd::store(square + j * L, sum);
    }
    transpose<T, Arch>(square, columns, L);
    batch sum = simd::load<T, Arch>(columns);
    for (index_t i = 1; i < L; ++i) sum = sum + simd::load<T, Arch>(columns + i * L);
    simd::store(scores, sum);
    for (j = 0; j < count; ++j) {
        for (index_t c = whole; c < d; ++c) scores[j] += q[c] * k.row(j)[c];
        scores[j] *= factor;
    }
}

// Scores of a row -> weights relative to `largest`, which becomes their maximum; returns the sum. Room for
// whole registers is behind the row.
template <class T, class Arch>
MOX_NOINLINE T few_weights(T* row, index_t n, T& largest) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr T lowest = -std::numeric_limits<T>::infinity();
    const index_t whole = round_up(n, L);
    std::fill(row + n, row + whole, lowest);
    batch best(lowest), sum(T(0));
    for (index_t j = 0; j < whole; j += L) best = simd::max(best, simd::load<T, Arch>(row + j));
    largest = simd::reduce_max(best);
    // Nothing but -infinity: weights of zero, not NaN; another part may have more.
    const batch shift(largest == lowest ? T(0) : largest);
    for (index_t j = 0; j < whole; j += L) {
        const batch w = simd::weight(simd::load<T, Arch>(row + j) - shift);
        simd::store(row + j, w);
        sum = sum + w;
    }
    return simd::reduce_add(sum);
}

template <class T, class Arch>
void attention_few_queries(executor_ref exec, arena& scratch, const attention_shape& s,
                           const attention_rows& rows, matrix_view<const T> q, matrix_view<const T> k,
                           matrix_view<const T> v, matrix_view<T> out, T* lse, const longest_rows& longest) {
    constexpr index_t L = simd::lanes<T, Arch>;
    const index_t d = s.head_dim, dp = round_up(d, L), group = s.heads / s.kv_heads;
    const T factor = score_factor<T>(s);
    const unit_map units(scratch, rows.sequences, [&](index_t seq) {
        return divide_up(rows.key[seq + 1] - rows.key[seq], decode_keys) * s.kv_heads;
    });
    // Rows of a unit: its queries, and for each the heads that share the keys.
    const index_t most_rows = longest.queries * group, stride = decode_keys + L;
    const index_t size = round_up(most_rows * stride + decode_block * dp, alignment);
    T* memory = scratch.take<T>(workers_for(exec, units.total()) * size);
    T* mixed = scratch.take<T>(units.total() * most_rows * dp);
    T* sums = scratch.take<T>(units.total() * most_rows);
    T* maxima = scratch.take<T>(units.total() * most_rows);

    for_each_with_worker(exec, units.total(), [&](index_t unit, index_t worker) {
        const auto [seq, at] = units.find(unit);
        const attention_sequence sequence(s, rows, seq);
        const index_t kv_head = at % s.kv_heads, first = at / s.kv_heads * decode_keys;
        const index_t last = std::min(sequence.n_k, first + decode_keys), count = sequence.n_q * group;
        const auto keys_of = [&](index_t row) {
            return std::clamp<index_t>(sequence.visible(row / group) - first, 0, last - first);
        };
        const auto part_of = [&](matrix_view<const T> x) {
            return x.middle_rows(sequence.k0 + first, last - first).middle_cols(kv_head * d, d);
        };
        T* scores = memory + worker * size;
        T* packed = scores + most_rows * stride;
        T* to = mixed + unit * most_rows * dp;
        std::fill_n(to, count * dp, T(0));
        const matrix_view<const T> keys = part_of(k), lying = part_of(v);
        for (index_t j = 0; j < last - first; j += L) {
            const index_t n = std::min(L, last - first - j);
            for (index_t i = 2 * L; i < 3 * L; ++i) prefetch_row(keys, j + i);
            for (index_t r = 0; r < count; ++r) {
                if (keys_of(r) <= j) continue;
                few_scores<T, Arch>(q.row(sequence.q0 + r / group) + (kv_head * group + r % group) * d,
                                    keys.middle_rows(j, n), n, factor, scores + r * stride + j);
            }
        }
        for (index_t r = 0; r < count; ++r) {
            sums[unit * most_rows + r] =
                few_weights<T, Arch>(scores + r * stride, keys_of(r), maxima[unit * most_rows + r]);
        }
        for (index_t j = 0; j < last - first; j += decode_block) {
            const index_t n = std::min(decode_block, last - first - j);
            // Rows that end within a register are copied: their neighbours must not be read.
            if (dp != d) pack_rows<T, Arch>(lying.middle_rows(j, n), packed, dp);
            const T* values = dp == d ? lying.row(j) : packed;
            const index_t ldv = dp == d ? lying.stride : dp;
            for (index_t i = 0; i < n; ++i) prefetch_row(lying, j + n + i);
            even_tiles(count, product_rows, [&](index_t offset, index_t tile) {
                const index_t common = std::clamp<index_t>(keys_of(offset) - j, 0, n);
                weighted_table<T, Arch>::rows(tile, scores + offset * stride + j, stride, values, ldv, dp,
                                              common, nullptr, to + offset * dp);
                for (index_t r = offset; r < offset + tile; ++r) {
                    const index_t more = std::clamp<index_t>(keys_of(r) - j, 0, n) - common;
                    if (more <= 0) continue;
                    add_weighted_row<T, Arch>(scores + r * stride + j + common, 1, values + common * ldv, ldv,
                                              dp, more, to + r * dp);
                }
            });
        }
    });

    // The parts of a row share a maximum, then they add up.
    exec.run(rows.sequences, [&](index_t seq) {
        const attention_sequence sequence(s, rows, seq);
        const index_t parts = divide_up(sequence.n_k, decode_keys);
        for (index_t at = 0; at < sequence.n_q * s.heads; ++at) {
            const index_t i = at / s.heads, head = at % s.heads;
            const index_t r = i * group + head % group;
            const index_t seen = divide_up(sequence.visible(i), decode_keys);
            const auto unit_of = [&](index_t p) { return units.first(seq) + p * s.kv_heads + head / group; };
            T largest = -std::numeric_limits<T>::infinity();
            for (index_t p = 0; p < std::min(parts, seen); ++p)
                largest = std::max(largest, maxima[unit_of(p) * most_rows + r]);
            T sum = 0;
            T* result = mixed + (unit_of(0) * most_rows + r) * dp;
            for (index_t p = 0; p < std::min(parts, seen); ++p) {
                const index_t from = unit_of(p) * most_rows + r;
                const T w = std::exp((maxima[from] - largest) / simd::weight_unit<T>);
                sum += w * sums[from];
                for (index_t c = 0; c < d; ++c)
                    result[c] = p == 0 ? w * result[c] : result[c] + w * mixed[from * dp + c];
            }
            T* to = out.row(sequence.q0 + i) + head * d;
            for (index_t c = 0; c < d; ++c) to[c] = result[c] / sum;
            if (lse) lse[(sequence.q0 + i) * s.heads + head] = largest / simd::weight_unit<T> + std::log(sum);
        }
    });
}

}  // namespace mox::inline MOX_ABI::kernel::detail
