#pragma once

// The softmax of a block of query rows that passes over blocks of keys: a running maximum and a running sum
// per row (online softmax, arXiv 1805.02867).

#include <cmath>
#include <limits>

#include <mox/kernel/attention_tiles.hpp>
#include <mox/simd/exp_weight.hpp>

namespace mox::inline MOX_ABI::kernel::detail {

// Query rows of a block: eight tiles share a panel of keys while it is in the first cache level.
inline constexpr index_t query_rows = 48;

// What is one number per row is computed a register of rows at a time.
template <class T, class Arch>
inline constexpr index_t padded_query_rows = round_up(query_rows, simd::lanes<T, Arch>);

// Where a block of rows stands between two blocks of keys.
template <class T, class Arch>
struct running_softmax {
    static constexpr index_t rows = padded_query_rows<T, Arch>;
    static constexpr index_t L = simd::lanes<T, Arch>;
    using batch = simd::batch<T, Arch>;

    alignas(64) T sums[rows * L];   ///< by lanes, relative to the maximum
    alignas(64) T lanes[rows * L];  ///< maxima of a tile_block, by lanes
    alignas(64) T largest[rows];    ///< running maximum
    alignas(64) T carry[rows];      ///< what the row's results so far are multiplied with
    alignas(64) T inverse[rows];    ///< at the end: 1 / sum

    void start(index_t count) {
        std::fill_n(sums, count * L, T(0));
        std::fill_n(largest, round_up(count, L), -std::numeric_limits<T>::infinity());
    }

    // Scores of a block -> weights relative to the new maximum, which goes to shift[0, rows).
    MOX_NOINLINE void pass(const visible_block& tile_block, T* scores, index_t stride, T* shift) {
        const batch lowest(-std::numeric_limits<T>::infinity());
        for (index_t r = 0; r < tile_block.count; ++r) {
            const index_t n = tile_block.keys(r), whole = round_up(n, L);
            T* row = scores + r * stride;
            for (index_t j = n; j < whole; ++j) row[j] = -std::numeric_limits<T>::infinity();
            batch best = lowest;
            for (index_t j = 0; j < whole; j += L) best = simd::max(best, simd::load<T, Arch>(row + j));
            simd::store(lanes + r * L, best);
        }
        const index_t groups = round_up(tile_block.count, L);
        for (index_t r = tile_block.count; r < groups; ++r) simd::store(lanes + r * L, lowest);
        for (index_t r = 0; r < groups; r += L) {
            alignas(64) T square[L * L];
            transpose<T, Arch>(lanes + r * L, square, L);
            const batch before = simd::load<T, Arch>(largest + r);
            batch best = before;
            for (index_t i = 0; i < L; ++i) best = simd::max(best, simd::load<T, Arch>(square + i * L));
            // Nothing but -infinity so far: weights of zero, not NaN; a later block may have more.
            const batch by = simd::select(best == lowest, batch(T(0)), best);
            simd::store(largest + r, best);
            simd::store(shift + r, by);
            simd::store(carry + r, simd::weight(before - by));
        }
        for (index_t r = 0; r < tile_block.count; ++r) {
            const index_t n = tile_block.keys(r);
            const batch by(shift[r]);
            T* row = scores + r * stride;
            batch sum = simd::load<T, Arch>(sums + r * L) * batch(carry[r]);
            for (index_t j = 0; j < n; j += L) {
                const batch w = simd::weight(simd::load<T, Arch>(row + j) - by);
                simd::store(row + j, w);
                sum = sum + w;
            }
            simd::store(sums + r * L, sum);
        }
    }

    // mixed: rows of dp values that belong to the sums; out: the same divided by them.
    MOX_NOINLINE void finish(index_t count, const T* mixed, index_t dp, matrix_view<T> out) {
        for (index_t r = 0; r < count; ++r) {
            inverse[r] = T(1) / simd::reduce_add(simd::load<T, Arch>(sums + r * L));
            const batch factor(inverse[r]);
            T* to = out.row(r);
            simd::for_each<T, Arch>(out.cols, [&](index_t c, index_t n) {
                simd::store_upto(to + c, simd::load<T, Arch>(mixed + r * dp + c) * factor, n);
            });
        }
    }
    /// The logarithm of the row's sum of exponentials, natural.
    T log_sum_exp(index_t r) const { return largest[r] / simd::weight_unit<T> - std::log(inverse[r]); }
};

}  // namespace mox::inline MOX_ABI::kernel::detail
