#pragma once

// Products between rows that lie anywhere and weights in panels. One call is one unit of work of one thread;
// grouped.hpp cuts whole layers into such units.

#include <mox/core/view.hpp>
#include <mox/kernel/gemv.hpp>
#include <mox/kernel/tile.hpp>

namespace mox::inline MOX_ABI::kernel {

/// Rows by pointer: row i is data + index[i] * stride, or data + i * stride without an index.
/// Selecting tokens means passing their numbers; nothing is copied.
template <class T>
struct row_source {
    T* data = nullptr;
    index_t stride = 0;
    const row_t* index = nullptr;

    constexpr row_source() = default;
    constexpr row_source(T* d, index_t s, const row_t* i = nullptr) noexcept : data(d), stride(s), index(i) {}
    constexpr row_source(matrix_view<T> m, const row_t* i = nullptr) noexcept
        : data(m.data), stride(m.stride), index(i) {}
    template <class U>
    requires(std::is_same_v<const U, T>) constexpr row_source(const row_source<U>& o) noexcept
        : data(o.data), stride(o.stride), index(o.index) {}

    constexpr T* operator()(index_t i) const noexcept {
        return data + (index ? static_cast<index_t>(index[i]) : i) * stride;
    }
};

template <class T>
row_source(matrix_view<T>) -> row_source<T>;
template <class T>
row_source(matrix_view<T>, const row_t*) -> row_source<T>;

/// Where a product goes. `cols`: valid columns of a row; the rest of the last register is not written.
/// `scale`: a factor per row number of the source (a gate weight), or null.
template <class T>
struct row_target {
    row_source<T> rows;
    index_t cols = 0;
    const T* scale = nullptr;
    bool accumulate = false;
};

/// out[i] (+)= scale[i] * x[i] W for i in [begin, end), panels [p0, p1).
template <class T, class Arch>
void product(row_source<const T> x, index_t begin, index_t end, panel_view<const T, Arch> w, index_t p0,
             index_t p1, row_target<T> out) {
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t W = panel_width<T, Arch>;
    for (index_t p = p0; p < p1; ++p) {
        const index_t width = w.width(p);
        const index_t valid = std::min(width, out.cols - p * W);
        even_tiles(end - begin, product_rows, [&](index_t offset, index_t rows) {
            const T* xs[product_rows];
            T* cs[product_rows];
            T scale[product_rows];
            for (index_t r = 0; r < rows; ++r) {
                const index_t i = begin + offset + r;
                xs[r] = x(i);
                cs[r] = out.rows(i) + p * W;
                if (out.scale) scale[r] = out.scale[i];
            }
            const T* s = out.scale ? scale : nullptr;
            if (valid == width && end - begin <= streamed_rows) {
                stream_panel<T, Arch>(width / L, xs, w.panel(p), w.rows, cs, s, out.accumulate,
                                      p + 1 < p1 ? w.panel(p + 1) : nullptr);
                return;
            }
            if (valid == width) {
                tile_table<T, Arch>::product(rows, width / L, xs, w.panel(p), width, w.rows, cs, s,
                                             out.accumulate);
                return;
            }
            alignas(64) T tile[product_rows * W];
            T* ts[product_rows];
            for (index_t r = 0; r < rows; ++r) ts[r] = tile + r * W;
            tile_table<T, Arch>::product(rows, width / L, xs, w.panel(p), width, w.rows, ts, s, false);
            for (index_t r = 0; r < rows; ++r) {
                for (index_t j = 0; j < valid; ++j) {
                    cs[r][j] = out.accumulate ? cs[r][j] + ts[r][j] : ts[r][j];
                }
            }
        });
    }
}

/// Tiles of x W handed to `sink(row, rows, panel, tile, width)`: tile row r at tile + r * panel_width. For
/// epilogues that combine columns, as gated activations do.
template <class T, class Arch, class Sink>
void product_tiles(row_source<const T> x, index_t begin, index_t end, panel_view<const T, Arch> w, index_t p0,
                   index_t p1, Sink&& sink) {
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t W = panel_width<T, Arch>;
    for (index_t p = p0; p < p1; ++p) {
        const index_t width = w.width(p);
        even_tiles(end - begin, product_rows, [&](index_t offset, index_t rows) {
            const T* xs[product_rows];
            alignas(64) T tile[product_rows * W];
            T* ts[product_rows];
            for (index_t r = 0; r < rows; ++r) {
                xs[r] = x(begin + offset + r);
                ts[r] = tile + r * W;
            }
            if (end - begin <= streamed_rows) {
                stream_panel<T, Arch>(width / L, xs, w.panel(p), w.rows, ts, nullptr, false,
                                      p + 1 < p1 ? w.panel(p + 1) : nullptr);
            } else {
                tile_table<T, Arch>::product(rows, width / L, xs, w.panel(p), width, w.rows, ts, nullptr,
                                             false);
            }
            sink(begin + offset, rows, p, tile, width);
        });
    }
}

/// out[i] (+)= y[i] W' for i in [begin, end), output columns (rows of W) [k0, k1).
/// `cols`: valid columns of y, at most w.cols; the columns of W behind them hold zeros.
template <class T, class Arch>
void product_transposed(row_source<const T> y, index_t cols, index_t begin, index_t end,
                        panel_view<const T, Arch> w, index_t k0, index_t k1, row_target<T> out) {
    constexpr index_t S = dot_side<Arch>;
    // Rows that end inside a register are completed with zeros in a local copy. Widths of real networks are
    // multiples of a register; this is for the others.
    constexpr index_t local_cols = 4096;
    T local[S > 0 ? local_cols : 1];
    const bool copy = cols < w.cols;
    const index_t copied_rows = copy ? std::min(S, local_cols / w.cols) : S;
    if (copy && copied_rows < 1) {
        // Too wide for the local copy: element by element, still exact.
        for (index_t i = begin; i < end; ++i) {
            for (index_t k = k0; k < k1; ++k) {
                T sum = 0;
                for (index_t n = 0; n < cols; ++n) sum += y(i)[n] * w(k, n);
                T& c = out.rows(i)[k];
                c = out.accumulate ? c + sum : sum;
            }
        }
        return;
    }
    even_tiles(end - begin, copied_rows, [&](index_t offset, index_t rows) {
        const T* ys[S];
        for (index_t r = 0; r < rows; ++r) {
            ys[r] = y(begin + offset + r);
            if (copy) {
                T* to = local + r * w.cols;
                std::copy_n(ys[r], cols, to);
                std::fill(to + cols, to + w.cols, T(0));
                ys[r] = to;
            }
        }
        even_tiles(k1 - k0, S, [&](index_t k, index_t side) {
            T* cs[S];
            for (index_t r = 0; r < rows; ++r) cs[r] = out.rows(begin + offset + r) + k0 + k;
            tile_table<T, Arch>::transposed(rows, side, ys, w, k0 + k, cs, out.accumulate);
        });
    });
}

/// dW (+)= sum over i in [begin, end) of x[i]' y[i], rows of dW [k0, k1), one panel. The sum over tokens runs
/// in their order. `cols`: valid columns of y.
template <class T, class Arch>
void weight_gradient(row_source<const T> x, row_source<const T> y, index_t cols, index_t begin, index_t end,
                     panel_view<T, Arch> dw, index_t p, index_t k0, index_t k1, bool accumulate) {
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t W = panel_width<T, Arch>;
    // 128 rows: their slice of y (32 KB of f32) stays in the first cache level while all of k passes by.
    constexpr index_t tokens_at_once = 128;
    const index_t width = dw.width(p);
    const bool copy = cols - p * W < width;
    const T* xs[tokens_at_once];
    const T* ys[tokens_at_once];
    alignas(64) T local[tokens_at_once * W];
    if (begin == end && !accumulate) {
        for (index_t k = k0; k < k1; ++k) std::fill_n(dw.panel(p) + k * width, width, T(0));
        return;
    }
    for (index_t t0 = begin; t0 < end; t0 += tokens_at_once) {
        const index_t n = std::min(tokens_at_once, end - t0);
        for (index_t t = 0; t < n; ++t) {
            xs[t] = x(t0 + t);
            ys[t] = y(t0 + t) + p * W;
            if (copy) {
                T* to = local + t * W;
                const index_t valid = cols - p * W;
                std::copy_n(ys[t], valid, to);
                std::fill(to + valid, to + width, T(0));
                ys[t] = to;
            }
        }
        even_tiles(k1 - k0, product_rows, [&](index_t k, index_t rows) {
            tile_table<T, Arch>::outer(rows, width / L, xs, k0 + k, ys, 0, n, dw.panel(p) + (k0 + k) * width,
                                       width, accumulate || t0 > begin);
        });
    }
}

}  // namespace mox::inline MOX_ABI::kernel
