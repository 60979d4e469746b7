#pragma once

// Products of whole layers with packed weights: the grouped products of kernel/grouped.hpp, and the way back
// to panels of plain numbers for everything that is not inference.
//
// With few rows the time is the reading of weights. Each thread walks the panels of its experts in one
// stream: while a panel is multiplied, the next one is on its way, also across experts and from the first map
// to the second.

#include <mox/kernel/grouped.hpp>
#include <mox/kernel/packed_rows.hpp>
#include <mox/kernel/reference/packed.hpp>

namespace mox::inline MOX_ABI::kernel {

/// Packed matrices of one shape behind each other.
template <class F, class Arch = simd::default_arch>
struct packed_stack {
    packed_view<F, Arch> first;
    index_t bytes = 0;  ///< of one matrix

    packed_stack(const void* data, index_t rows, index_t n, bool gated) noexcept
        : first{static_cast<const std::byte*>(data), rows, packed_view<F, Arch>::columns(n, gated)},
          bytes(packed_view<F, Arch>::bytes(rows, n, gated)) {}

    packed_view<F, Arch> operator[](index_t e) const noexcept {
        return {first.data + e * bytes, first.rows, first.cols};
    }
    /// The first panel of a range in the first group behind `e` that has slots, else `otherwise`.
    const std::byte* next(group_view groups, index_t e, index_t panel, const std::byte* otherwise) const {
        for (++e; e < groups.count; ++e) {
            if (groups.begin(e) < groups.end(e)) return (*this)[e].panel(panel);
        }
        return otherwise;
    }
};

/// Tiles of x W handed to `sink(row, rows, panel, tile, width)`, tile row r at tile + r * panel_width, for
/// slots [begin, end), panels [p0, p1). index: row of x each slot reads, or null. after: what is multiplied
/// behind these panels, or null.
template <class F, class T, class Arch, class Sink>
void packed_product_tiles(const packed_rows<F, T>& x, const row_t* index, index_t begin, index_t end,
                          packed_view<F, Arch> w, index_t p0, index_t p1, const std::byte* after,
                          Sink&& sink) {
    constexpr index_t W = panel_width<float, Arch>;
    constexpr index_t most = packed_tile_rows<F, Arch>;
    alignas(64) T tile[most * W];
    packed_row<T> rows[most];
    for (index_t p = p0; p < p1; ++p) {
        const index_t width = w.width(p);
        const std::byte* const panel = w.panel(p);
        const std::byte* ahead = after;
        if (p + 1 < p1) ahead = fetches_neighbours<F> && end - begin == 1 ? w.panel(p + 1) : nullptr;
        even_tiles(end - begin, most, [&](index_t offset, index_t count) {
            for (index_t r = 0; r < count; ++r) {
                const index_t slot = begin + offset + r;
                rows[r] = x(index ? static_cast<index_t>(index[slot]) : slot);
            }
            if constexpr (std::is_same_v<T, float>) {
                // Asked for once: the first rows that meet a panel are those that wait for memory.
                packed_tiles<F, Arch>::run(count, width / simd::lanes<float, Arch>, rows, panel, w.rows,
                                           ahead, tile, W);
                ahead = nullptr;
            } else {
                reference::packed_tile<F, T>(count, rows, panel, width, w.rows, tile, W);
            }
            sink(begin + offset, count, p, tile, width);
        });
    }
}

/// The same for every slot of every group: sink(group, row, rows, panel, tile, width).
template <class F, class T, class Arch, class Sink>
void grouped_packed_tiles(executor_ref exec, group_view groups, const packed_rows<F, T>& x,
                          const row_t* index, const packed_stack<F, Arch>& w, const std::byte* after,
                          Sink&& sink) {
    for_each_unit(exec, groups, w.first.panels(),
                  [&](index_t e, index_t begin, index_t end, index_t piece, index_t pieces) {
                      const piece_range p(w.first.panels(), piece, pieces);
                      packed_product_tiles<F, T, Arch>(
                          x, index, begin, end, w[e], p.begin, p.end, w.next(groups, e, p.begin, after),
                          [&](index_t slot, index_t count, index_t panel, T* tile, index_t width) {
                              sink(e, slot, count, panel, tile, width);
                          });
                  });
}

/// y[token] (+)= scale[slot] * x[slot] W_e, summed over the slots of a token in the order of the groups, as
/// grouped_product_to_tokens.
template <class F, class T, class Arch>
void grouped_packed_to_tokens(executor_ref exec, group_view groups, const row_t* tokens,
                              const packed_rows<F, T>& x, const T* scale, const packed_stack<F, Arch>& w,
                              matrix_view<T> y, bool accumulate) {
    constexpr index_t W = panel_width<float, Arch>;
    const bool direct = !accumulate && groups.count == 1 && groups.slots() == y.rows;
    for_each_owner(
        exec, groups, tokens, y.rows, w.first.panels(),
        [&](index_t t0, index_t t1, index_t p0, index_t p1) {
            if (accumulate || direct) return;
            const index_t end = std::min(p1 * W, y.cols);
            for (index_t t = t0; t < t1; ++t) std::fill(y.row(t) + p0 * W, y.row(t) + end, T(0));
        },
        [&](index_t e, index_t begin, index_t end, index_t p0, index_t p1) {
            packed_product_tiles<F, T, Arch>(
                x, nullptr, begin, end, w[e], p0, p1, w.next(groups, e, p0, nullptr),
                [&](index_t slot, index_t count, index_t panel, T* tile, index_t width) {
                    const index_t valid = std::min(width, y.cols - panel * W);
                    for (index_t r = 0; r < count; ++r) {
                        const index_t s = slot + r;
                        T* const to = y.row(tokens ? tokens[s] : s) + panel * W;
                        const simd::batch<T, Arch> weight(scale ? scale[s] : T(1));
                        simd::for_each<T, Arch>(valid, [&](index_t i, index_t n) {
                            const auto v = simd::load<T, Arch>(tile + r * W + i);
                            simd::store_upto(to + i,
                                             direct
                                                 ? v * weight
                                                 : simd::fma(v, weight, simd::load_upto<T, Arch>(to + i, n)),
                                             n);
                        });
                    }
                });
        });
}

/// Panels of plain numbers with the same columns as w. They serve the products of kernel/grouped.hpp.
template <class F, class T, class Arch>
void widen(executor_ref exec, packed_view<F, Arch> w, index_t n, bool gated, T* to) {
    using plain = panel_layout<T, Arch>;
    using packed = panel_layout<float, Arch>;
    const index_t cols = gated ? plain::padded_gated(n) : plain::padded(n);
    exec.run(divide_up(cols, plain::width), [&](index_t p) {
        const index_t width = std::min(plain::width, cols - p * plain::width);
        T* const panel = to + w.rows * p * plain::width;
        for (index_t c = 0; c < width; ++c) {
            // Columns are padded and, when gated, paired by the panel's width, which depends on the type.
            index_t col = p * plain::width + c;
            bool exists = col < n;
            if (gated) {
                const index_t unit = plain::gated_unit(n, col), part = plain::gated_part(n, col);
                exists = unit < n;
                col = exists ? packed::gated_column(n, unit, part) : 0;
            }
            if (!exists) {
                for (index_t k = 0; k < w.rows; ++k) panel[k * width + c] = T(0);
                continue;
            }
            const index_t q = col / packed::width;
            for (index_t k = 0; k < w.rows; ++k) {
                panel[k * width + c] =
                    static_cast<T>(F::value(w.panel(q), w.width(q), w.rows, k, col - q * packed::width));
            }
        }
    });
}

}  // namespace mox::inline MOX_ABI::kernel
