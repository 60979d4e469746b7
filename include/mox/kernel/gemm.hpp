#pragma once

// Products between rows that lie anywhere and weights in panels. One call is one unit of work of one thread;
// grouped.hpp cuts whole layers into such units.

#include <mox/core/view.hpp>
#include <mox/kernel/gemv.hpp>
#include <mox/kernel/streaming.hpp>
#include <mox/kernel/tile.hpp>
#include <mox/simd/transpose.hpp>

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
/// `scale`: a factor per row number of the source (a gate weight), or null. `far`: asks_ahead of the matrix.
template <class T>
struct row_target {
    row_source<T> rows;
    index_t cols = 0;
    const T* scale = nullptr;
    bool accumulate = false;
    bool far = false;
};

namespace detail {

// The rows [first, first + rows) of a product as a tile takes them, from column k of x to column c of `out`.
// Returns the tile's factors, or null.
template <class T>
MOX_INLINE const T* point_at_rows(const row_source<const T>& x, const row_target<T>& out, index_t first,
                                  index_t rows, index_t k, index_t c, const T** xs, T** cs, T* scale) {
    for (index_t r = 0; r < rows; ++r) {
        const index_t i = first + r;
        xs[r] = x(i) + k;
        cs[r] = out.rows(i) + c;
        if (out.scale) scale[r] = out.scale[i];
    }
    return out.scale ? scale : nullptr;
}

// One tile of a panel; the tiles of a panel ask for the next one between them, each for its share, so that
// memory has the same to do all the time: at most two lines a step, at least one. (Measured with 16 rows and
// weights from memory, against two lines a step as long as there are any: 0.99 of the time, 0.98 where two
// threads share the memory.)
template <class T, class Arch>
void panel_tile(index_t tile_number, index_t tiles, index_t rows, const T* const* x, const T* panel,
                index_t width, index_t k, T* const* c, const T* scale, bool accumulate, const T* next) {
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t W = panel_width<T, Arch>;
    constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));
    constexpr index_t lines = W / line;  // of a row
    const index_t share = std::clamp(divide_up(lines * k, tiles), k, 2 * k);
    const index_t first = tile_number * share, count = std::min(share, lines * k - first);
    if (next && width == W && count > 0) {
        const T* const from = next + first * line;
        tile_table<T, Arch>::product_ahead(rows, x, panel, width, k, c, scale, accumulate, from,
                                           from + k * line, count - k);
        return;
    }
    tile_table<T, Arch>::product(rows, width / L, x, panel, width, k, c, scale, accumulate);
}

// From this many steps on, a tile asks for the lines it will write when it begins: they are there when it
// ends (measured: 0.91 to 0.94 of the peak with 512 steps). A shorter one does where the lines are far: with
// 64 steps 0.8 of the time for 512 x 50048 results.
inline constexpr index_t steps_worth_asking = 128;

// What is asked for beside panel p: the panel that follows it, or what follows the matrix. With so few rows
// that a panel meets one tile, memory is what is waited for: there panels pass in one stream, and from one to
// the next the hardware asks better (measured, share of the read bandwidth with and without asking: 1 row
// 0.89, 0.95; 2 rows 0.85, 0.95; 4 rows 0.81, 0.97; with 8 rows, two tiles, asking takes 0.97 of the time).
template <class T, class Arch>
const T* next_panel(const panel_view<const T, Arch>& w, index_t p, index_t p1, const T* after, index_t rows) {
    if (p + 1 == p1) return after;
    return has_huge_pages && rows <= product_rows ? nullptr : w.panel(p + 1);
}

// Up to so many steps rows stay and panels pass: a tile is so short that finding its rows and coming back to
// them panel by panel would take a good part of it. Measured with 512 rows of 1024 columns, 8, 16, 32, 64
// steps: 0.80, 0.88, 0.91, 0.95 of the time; of 4096 columns 0.72, -, 0.88, 0.93.
inline constexpr index_t short_sum = 64;

// Those that pass stay in the second cache from tile to tile. Weights that come from memory are better read
// once, panel by panel (64 steps of 50048 columns: 1.07 of the time).
inline constexpr index_t passing_bytes = 131072, most_passing_bytes = 1048576;

template <class T, class Arch>
bool passes_panels(const panel_view<const T, Arch>& w) noexcept {
    return w.rows <= short_sum && w.rows * w.cols * static_cast<index_t>(sizeof(T)) <= most_passing_bytes;
}

// Whole panels [p0, p1) of the product, tile of rows by tile of rows.
template <class T, class Arch>
void short_product(const row_source<const T>& x, index_t begin, index_t end,
                   const panel_view<const T, Arch>& w, index_t p0, index_t p1, const row_target<T>& out) {
    constexpr index_t W = panel_width<T, Arch>;
    const index_t panel_bytes = w.rows * W * static_cast<index_t>(sizeof(T));
    const index_t passing = std::max<index_t>(1, passing_bytes / panel_bytes);
    for (index_t first = p0; first < p1; first += passing) {
        even_tiles(end - begin, product_rows, [&](index_t offset, index_t rows) {
            const T* xs[product_rows];
            T* cs[product_rows];
            T scale[product_rows];
            const T* const s = point_at_rows(x, out, begin + offset, rows, 0, first * W, xs, cs, scale);
            for (index_t p = first; p < std::min(first + passing, p1); ++p) {
                const index_t width = w.width(p);
                tile_table<T, Arch>::product(rows, width / simd::lanes<T, Arch>, xs, w.panel(p), width,
                                             w.rows, cs, s, out.accumulate);
                for (index_t r = 0; r < rows; ++r) cs[r] += W;
            }
        });
    }
}

}  // namespace detail

/// out[i] (+)= scale[i] * x[i] W for i in [begin, end), panels [p0, p1). `after`: the panel that will be
/// needed next, or null; it is fetched while the last one is worked on.
template <class T, class Arch>
void product(row_source<const T> x, index_t begin, index_t end, panel_view<const T, Arch> w, index_t p0,
             index_t p1, row_target<T> out, const T* after = nullptr) {
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t W = panel_width<T, Arch>;
    const index_t tiles = divide_up(end - begin, product_rows);
    const bool asks = w.rows >= detail::steps_worth_asking || out.far;
    if (detail::passes_panels(w) && end - begin > streamed_rows) {
        const index_t whole = p1 == w.panels() && out.cols < w.cols ? p1 - 1 : p1;
        detail::short_product<T, Arch>(x, begin, end, w, p0, whole, out);
        p0 = whole;
    }
    for (index_t p = p0; p < p1; ++p) {
        const index_t width = w.width(p);
        const index_t valid = std::min(width, out.cols - p * W);
        const T* const next = detail::next_panel(w, p, p1, after, end - begin);
        index_t number = 0;
        even_tiles(end - begin, product_rows, [&](index_t offset, index_t rows) {
            const T* xs[product_rows];
            T* cs[product_rows];
            T scale[product_rows];
            const T* const s = detail::point_at_rows(x, out, begin + offset, rows, 0, p * W, xs, cs, scale);
            if (valid == width && end - begin <= streamed_rows) {
                stream_panel<T, Arch>(width / L, xs, w.panel(p), w.rows, cs, s, out.accumulate, next);
                return;
            }
            if (valid == width) {
                if (asks) {
                    for (index_t r = 0; r < rows; ++r) {
                        simd::prefetch_to_write(cs[r], width * static_cast<index_t>(sizeof(T)));
                    }
                }
                detail::panel_tile<T, Arch>(number++, tiles, rows, xs, w.panel(p), width, w.rows, cs, s,
                                            out.accumulate, next);
                return;
            }
            alignas(64) T tile[product_rows * W];
            T* ts[product_rows];
            for (index_t r = 0; r < rows; ++r) ts[r] = tile + r * W;
            detail::panel_tile<T, Arch>(number++, tiles, rows, xs, w.panel(p), width, w.rows, ts, s, false,
                                        next);
            for (index_t r = 0; r < rows; ++r) {
                for (index_t j = 0; j < valid; ++j) {
                    cs[r][j] = out.accumulate ? cs[r][j] + ts[r][j] : ts[r][j];
                }
            }
        });
    }
}

/// Tiles of x W handed to `sink(row, rows, panel, tile, width)`: tile row r at tile + r * panel_width. For
/// epilogues that combine columns, as gated activations do. `expect(row, rows, panel, width)` comes before
/// the tile is computed: the place to ask for the memory that the sink will write.
template <class T, class Arch, class Expect, class Sink>
void product_tiles(row_source<const T> x, index_t begin, index_t end, panel_view<const T, Arch> w, index_t p0,
                   index_t p1, Expect&& expect, Sink&& sink, const T* after = nullptr) {
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t W = panel_width<T, Arch>;
    const index_t tiles = divide_up(end - begin, product_rows);
    for (index_t p = p0; p < p1; ++p) {
        const index_t width = w.width(p);
        const T* const next = detail::next_panel(w, p, p1, after, end - begin);
        index_t number = 0;
        even_tiles(end - begin, product_rows, [&](index_t offset, index_t rows) {
            const T* xs[product_rows];
            alignas(64) T tile[product_rows * W];
            T* ts[product_rows];
            for (index_t r = 0; r < rows; ++r) {
                xs[r] = x(begin + offset + r);
                ts[r] = tile + r * W;
            }
            if (end - begin <= streamed_rows) {
                stream_panel<T, Arch>(width / L, xs, w.panel(p), w.rows, ts, nullptr, false, next);
            } else {
                if (w.rows >= detail::steps_worth_asking) expect(begin + offset, rows, p, width);
                detail::panel_tile<T, Arch>(number++, tiles, rows, xs, w.panel(p), width, w.rows, ts, nullptr,
                                            false, next);
            }
            sink(begin + offset, rows, p, tile, width);
        });
    }
}

namespace detail {

// With this many rows a group's weights are turned around block by block, which costs about as much as the
// products of six rows and makes them products of full tiles; below, and where the result is less than two
// panels wide, dot products read the weights as they lie.
inline constexpr index_t rows_worth_turning = 12;

template <class T, class Arch>
constexpr bool is_wide(const panel_view<const T, Arch>& w) noexcept {
    return w.rows >= 2 * panel_width<T, Arch>;
}

// Columns of W turned around at once: 64 KB of the second cache level, on the stack of a thread.
template <class T, class Arch>
inline constexpr index_t turned_columns = 65536 / (panel_width<T, Arch> * static_cast<index_t>(sizeof(T)));

// Rows [k0, k0 + width) of W, columns [n0, n1) of memory -> to[n - n0][k - k0], rows of panel_width values.
template <class T, class Arch>
MOX_NOINLINE void turn_block(const panel_view<const T, Arch>& w, index_t k0, index_t rows, index_t n0,
                             index_t n1, T* to) {
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t W = panel_width<T, Arch>;
    for (index_t n = n0; n < n1; n += L) {
        const index_t p = n / W, width = w.width(p);
        const T* const from = w.panel(p) + k0 * width + (n - p * W);
        T* const turned = to + (n - n0) * W;
        for (index_t k = 0; k < rows; k += L) {
            const index_t valid = std::min(L, rows - k);
            if (valid == L) {
                simd::transpose_square<T, Arch>(from + k * width, width, turned + k, W);
                continue;
            }
            for (index_t i = 0; i < L; ++i) {
                for (index_t j = 0; j < L; ++j)
                    turned[i * W + k + j] = j < valid ? from[(k + j) * width + i] : T(0);
            }
        }
    }
}

// out[i][k0, k1) (+)= y[i] W' by full tiles of blocks of W turned around.
template <class T, class Arch>
void product_turned(row_source<const T> y, index_t cols, index_t begin, index_t end,
                    const panel_view<const T, Arch>& w, index_t k0, index_t k1, row_target<T> out) {
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t W = panel_width<T, Arch>;
    constexpr index_t N = turned_columns<T, Arch>;
    constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));
    alignas(64) T turned[N * W];
    alignas(64) T ragged[product_rows * W];
    for (index_t k = k0; k < k1; k += W) {
        const index_t valid = std::min(W, k1 - k), width = round_up(valid, L);
        for (index_t n = 0; n < cols; n += N) {
            const index_t size = std::min(N, cols - n);
            turn_block<T, Arch>(w, k, valid, n, n + round_up(size, L), turned);
            const bool accumulate = out.accumulate || n > 0;
            // What is turned around next: the following columns of these rows, panel by panel.
            const index_t ahead = n + N < cols ? n + N : 0;
            const index_t ahead_row = ahead > 0 ? k : k + W;
            const bool asks =
                ahead_row + W <= w.rows && ahead + N <= w.cols && valid == W && size == W * W / line;
            index_t number = 0;
            even_tiles(end - begin, product_rows, [&](index_t offset, index_t rows) {
                const T* ys[product_rows];
                T* cs[product_rows];
                T* to[product_rows];
                for (index_t r = 0; r < rows; ++r) {
                    ys[r] = y(begin + offset + r) + n;
                    to[r] = out.rows(begin + offset + r) + k;
                    cs[r] = valid == width ? to[r] : ragged + r * W;
                    if (valid == width)
                        simd::prefetch_to_write(to[r], width * static_cast<index_t>(sizeof(T)));
                }
                const index_t chunk = 2 * number++;
                if (asks && (chunk + 1) * W < N) {
                    const index_t p = ahead / W + chunk;
                    tile_table<T, Arch>::product_ahead(rows, ys, turned, W, size, cs, nullptr, accumulate,
                                                       w.panel(p) + ahead_row * W,
                                                       w.panel(p + 1) + ahead_row * W, size);
                    return;
                }
                if (valid == width) {
                    tile_table<T, Arch>::product(rows, width / L, ys, turned, W, size, cs, nullptr,
                                                 accumulate);
                    return;
                }
                tile_table<T, Arch>::product(rows, width / L, ys, turned, W, size, cs, nullptr, false);
                for (index_t r = 0; r < rows; ++r) {
                    for (index_t j = 0; j < valid; ++j)
                        to[r][j] = accumulate ? to[r][j] + cs[r][j] : cs[r][j];
                }
            });
        }
    }
}

// out[i][k0, k1) (+)= y[i] W' by dot products along the rows of W.
template <class T, class Arch>
void product_by_dots(row_source<const T> y, index_t cols, index_t begin, index_t end,
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

}  // namespace detail

/// out[i] (+)= y[i] W' for i in [begin, end), output columns (rows of W) [k0, k1).
/// `cols`: valid columns of y, at most w.cols; the columns of W behind them hold zeros.
/// `group_rows`: rows of the whole group, of which [begin, end) may be a part. They decide how it is
/// computed, so that results do not depend on how work is cut.
template <class T, class Arch>
void product_transposed(row_source<const T> y, index_t cols, index_t begin, index_t end,
                        panel_view<const T, Arch> w, index_t k0, index_t k1, row_target<T> out,
                        index_t group_rows) {
    if (group_rows >= detail::rows_worth_turning && detail::is_wide(w)) {
        detail::product_turned<T, Arch>(y, cols, begin, end, w, k0, k1, out);
    } else {
        detail::product_by_dots<T, Arch>(y, cols, begin, end, w, k0, k1, out);
    }
}

/// dW (+)= sum over i in [begin, end) of x[i]' y[i], rows of dW [k0, k1), one panel. The sum over tokens runs
/// in their order. `cols`: valid columns of y.
template <class T, class Arch>
void weight_gradient(row_source<const T> x, row_source<const T> y, index_t cols, index_t begin, index_t end,
                     panel_view<T, Arch> dw, index_t p, index_t k0, index_t k1, bool accumulate) {
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t W = panel_width<T, Arch>;
    // 64 rows: their slice of y (16 KB of f32) stays in the first cache level while all of k passes by. It is
    // copied, because rows a power of two apart would share a few sets of that cache.
    constexpr index_t tokens_at_once = 64;
    const index_t width = dw.width(p);
    const T* xs[tokens_at_once];
    const T* ys[tokens_at_once];
    alignas(64) T local[tokens_at_once * W];
    if (begin == end && !accumulate) {
        for (index_t k = k0; k < k1; ++k) std::fill_n(dw.panel(p) + k * width, width, T(0));
        return;
    }
    even_tiles(end - begin, tokens_at_once, [&](index_t first, index_t n) {
        const index_t t0 = begin + first;
        for (index_t t = 0; t < n; ++t) {
            xs[t] = x(t0 + t);
            T* const to = local + t * W;
            const index_t valid = std::min(width, cols - p * W);
            std::copy_n(y(t0 + t) + p * W, valid, to);
            std::fill(to + valid, to + width, T(0));
            ys[t] = to;
        }
        // The lines of a tile are asked for about 64 steps before it ends: that many tiles ahead. Behind a
        // panel lies the next one.
        const index_t ahead = (divide_up(tokens_at_once, n) - 1) * product_rows * width;
        even_tiles(k1 - k0, product_rows, [&](index_t k, index_t rows) {
            T* const to = dw.panel(p) + (k0 + k) * width;
            simd::prefetch_to_write(to + ahead, rows * width * static_cast<index_t>(sizeof(T)));
            tile_table<T, Arch>::outer(rows, width / L, xs, k0 + k, ys, 0, n, to, width,
                                       accumulate || t0 > begin);
        });
    });
}

}  // namespace mox::inline MOX_ABI::kernel
