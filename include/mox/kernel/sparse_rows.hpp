#pragma once

// Products with a matrix most of whose values are zero and never change place: the frozen random projection
// of an adapter. Lanes are tokens: x is turned round a block at a time, so that one value of the matrix meets
// as many tokens as registers hold, and the places of the values cost nothing but an address.

#include <array>
#include <utility>

#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/panels.hpp>
#include <mox/kernel/streaming.hpp>
#include <mox/simd/batch.hpp>
#include <mox/simd/compress.hpp>
#include <mox/simd/transpose.hpp>

namespace mox::inline MOX_ABI::kernel {

/// The values of a matrix that are not zero, by blocks of columns, inside a block row by row.
template <class T>
struct sparse_rows {
    const simd::placed<T>* values = nullptr;  ///< at the place of the column they meet in its turned block
    const row_t* starts = nullptr;            ///< of each row of each block, and the end
    index_t rows = 0, cols = 0;

    index_t size() const noexcept { return starts[sparse_starts(rows, cols) - 1]; }
    static constexpr index_t sparse_starts(index_t rows, index_t cols) noexcept;
};

namespace detail {

// 64 columns of 64 tokens are 16 KB of f32. Measured with 32 rows, a quarter of 1024 columns, 512 tokens: 32,
// 64, 96, 128: 140, 131, 143, 146 us.
inline constexpr index_t sparse_columns = 64;

// Registers of tokens that meet a value together: the value is spread once for all of them. Measured 4, 6, 8:
// 131, 134, 148 us; 2, 3, 4 of an earlier version: 172, 161, 151 us.
inline constexpr int sparse_vectors = 4;

// Rows of the matrix that are summed together, so that the sums fit the stack.
inline constexpr index_t sparse_height = 64;

// Values between the columns of a turned block.
template <class T, class Arch>
inline constexpr index_t sparse_pitch = sparse_vectors* simd::lanes<T, Arch>;

// A block of x that is turned round while another is summed, whole registers of tokens and of columns: part
// by part, along the rows first, as the cache fetches ahead.
template <class T, class Arch, int V>
struct block_ahead {
    static constexpr index_t L = simd::lanes<T, Arch>, R = simd::turned_rows<T, Arch>;
    static constexpr index_t across = sparse_columns / L, parts = V * (L / R) * across;
    static constexpr index_t pitch = sparse_pitch<T, Arch>;

    const T* from = nullptr;
    index_t stride = 0;
    T* to = nullptr;
    index_t left = 0;     ///< parts to turn
    index_t further = 0;  ///< from a part to that of the block after, which is asked for; 0: nothing is

    MOX_INLINE void ask() const noexcept {
        if (further == 0) return;
#pragma GCC unroll 8
        for (index_t i = 0; i < R; ++i) simd::prefetch(from + i * stride + further);
    }
    MOX_INLINE void advance() noexcept {
        from += L;
        to += L * pitch;
        if (--left % across != 0) return;
        from += R * stride - sparse_columns;
        to += R - sparse_columns * pitch;
    }
};

// sums[r][V registers] += values of row r times the columns they meet, from zero when `first`. The next block
// is turned round in between: the sums wait for loads, the turning for shuffles, and the core does both at a
// time when they are close together (measured, 512 tokens: 131 us; 145 with whole parts between rows, 150 one
// after the other).
template <class T, class Arch, int V>
MOX_NOINLINE void add_sparse(const simd::placed<T>* values, const row_t* starts, index_t rows,
                             const T* columns, T* sums, bool first, block_ahead<T, Arch, V> next) {
    using batch = simd::batch<T, Arch>;
    using ahead = block_ahead<T, Arch, V>;
    constexpr index_t L = simd::lanes<T, Arch>;
    const index_t parts_a_row = divide_up(next.left, rows);
    // With registers to spare a part is loaded before the rest of the row that is summed (measured: 0.95;
    // with 16 registers 1.05).
    constexpr bool early = simd::registers<Arch> == 32;
    simd::turning<T, Arch, ahead::R> part;
    const auto load = [&] {
        part.load(next.from, next.stride);
        next.ask();
    };
    if (early && next.left > 0) load();
    for (index_t r = 0; r < rows; ++r, sums += V * L) {
        batch acc[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[v] = first ? batch(T(0)) : simd::load<T, Arch>(sums + v * L);
        const simd::placed<T>*at = values + starts[r], *const end = values + starts[r + 1];
        const auto add = [&] {
            const auto [value, place] = simd::load_spread<T, Arch>(at++);
            const T* from = columns + place;
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) acc[v] = simd::fma(value, simd::load<T, Arch>(from + v * L), acc[v]);
        };
        for (index_t k = 0; k < parts_a_row && next.left > 0; ++k) {
            if constexpr (!early) load();
            if (at < end) add();
            part.template step<0>();
            if (at < end) add();
            if constexpr (part.steps > 1) part.template step<1>();
            if (at < end) add();
            if constexpr (part.steps > 2) part.template step<2>();
            part.store(next.to, ahead::pitch);
            next.advance();
            if (early && next.left > 0) load();
        }
        while (at < end) add();
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) simd::store(sums + v * L, acc[v]);
    }
}

// columns = `size` columns of x from c0 on, for `count` tokens in V registers; lanes without a token are
// zero.
template <class T, class Arch, int V>
void turn_block(matrix_view<const T> x, index_t t0, index_t count, index_t c0, index_t size, T* columns) {
    constexpr index_t L = simd::lanes<T, Arch>, pitch = sparse_pitch<T, Arch>;
    for (index_t v = 0; v < V; ++v, columns += L) {
        const index_t here = std::min(L, count - v * L);
        if (here == L) {
            simd::transpose_lanes<T, Arch>(x.row(t0 + v * L) + c0, x.stride, size, columns, pitch);
            continue;
        }
        for (index_t c = 0; c < size; ++c) {
            for (index_t i = 0; i < L; ++i)
                columns[c * pitch + i] = i < here ? x(t0 + v * L + i, c0 + c) : T(0);
        }
    }
}

// z[t0 + i][r0 ...] = the sums of token i, for `count` tokens in V registers.
template <class T, class Arch, int V>
void write_sums(const T* sums, index_t r0, index_t rows, index_t t0, index_t count, matrix_view<T> z) {
    constexpr index_t L = simd::lanes<T, Arch>;
    for (index_t i = 0; i < count;) {
        index_t r = 0;
        const index_t here = std::min(L, count - i);
        for (; here == L && r + L <= rows; r += L)
            simd::transpose_square<T, Arch>(sums + r * V * L + i, V * L, z.row(t0 + i) + r0 + r, z.stride);
        for (; r < rows; ++r) {
            for (index_t j = i; j < i + here; ++j) z(t0 + j, r0 + r) = sums[r * V * L + j];
        }
        i += here;
    }
}

// What is summed at a time: columns [c, c + sparse_columns) of rows [r, r + sparse_height) and V registers of
// tokens from t on; a block follows a block until the tokens end.
struct sparse_position {
    index_t t, r, c;

    sparse_position next(index_t rows, index_t cols, index_t tokens) const noexcept {
        if (c + sparse_columns < cols) return {t, r, c + sparse_columns};
        if (r + sparse_height < rows) return {t, r + sparse_height, 0};
        return {t + tokens, 0, 0};
    }
};

// z[t] = row t of x times the rows of a for the tokens [begin, end), V registers of them at a time.
template <class T, class Arch, int V>
void sparse_tokens(const sparse_rows<T>& a, matrix_view<const T> x, index_t begin, index_t end,
                   matrix_view<T> z) {
    constexpr index_t tokens = V * simd::lanes<T, Arch>, block = sparse_columns * sparse_pitch<T, Arch>;
    alignas(64) T both[static_cast<std::size_t>(2 * block)];
    alignas(64) T sums[static_cast<std::size_t>(sparse_height * tokens)];
    T *columns = both, *ahead = both + block;
    bool turned = false;
    const bool far = asks_ahead(x);
    for (sparse_position at{begin, 0, 0}; at.t < end;) {
        const index_t count = std::min(tokens, end - at.t), rows = std::min(sparse_height, a.rows - at.r);
        if (!turned) {
            turn_block<T, Arch, V>(x, at.t, count, at.c, std::min(sparse_columns, a.cols - at.c), columns);
        }
        const sparse_position next = at.next(a.rows, a.cols, tokens);
        turned = next.t + tokens <= end && next.c + sparse_columns <= a.cols;
        block_ahead<T, Arch, V> other{};
        if (turned) {
            const sparse_position after = next.next(a.rows, a.cols, tokens);
            const index_t further = far ? (after.t - next.t) * x.stride + after.c - next.c : 0;
            other = {x.row(next.t) + next.c, x.stride, ahead, other.parts, further};
        }
        add_sparse<T, Arch, V>(a.values, a.starts + at.c / sparse_columns * a.rows + at.r, rows, columns,
                               sums, at.c == 0, other);
        if (next.c == 0) write_sums<T, Arch, V>(sums, at.r, rows, at.t, count, z);
        if (turned) std::swap(columns, ahead);
        at = next;
    }
}

template <class T, class Arch, int... I>
constexpr auto sparse_table(std::integer_sequence<int, I...>) {
    return std::array{&sparse_tokens<T, Arch, I + 1>...};
}

}  // namespace detail

template <class T>
constexpr index_t sparse_rows<T>::sparse_starts(index_t rows, index_t cols) noexcept {
    return divide_up(cols, detail::sparse_columns) * rows + 1;
}

/// Room for the values of a rows x cols matrix.
template <class T, class Arch = simd::default_arch>
constexpr index_t sparse_room(index_t rows, index_t cols) noexcept {
    return rows * cols + simd::lanes<T, Arch>;
}

/// Collects the values of `w` that are not zero. values: sparse_room of them; starts: sparse_starts. `cols`:
/// valid columns of w.
template <class T, class Arch = simd::default_arch>
sparse_rows<T> find_sparse_rows(std::type_identity_t<panel_view<const T, Arch>> w, index_t cols,
                                simd::placed<T>* values, row_t* starts) {
    constexpr row_t pitch = detail::sparse_pitch<T, Arch>;
    constexpr index_t W = panel_width<T, Arch>;
    index_t n = 0;
    row_t* start = starts;
    for (index_t c0 = 0; c0 < cols; c0 += detail::sparse_columns) {
        const index_t c1 = std::min(cols, c0 + detail::sparse_columns);
        for (index_t r = 0; r < w.rows; ++r) {
            *start++ = static_cast<row_t>(n);
            for (index_t c = c0, run = 0; c < c1; c += run) {
                const index_t p = c / W;
                run = std::min(c1, (p + 1) * W) - c;
                n += simd::compress_non_zero<T, Arch>(w.panel(p) + r * w.width(p) + (c - p * W), run,
                                                      static_cast<row_t>(c - c0) * pitch, pitch, values + n);
            }
        }
    }
    *start = static_cast<row_t>(n);
    return {values, starts, w.rows, cols};
}

/// z = x A'. Sums run along the columns, whatever block a token falls in.
template <class T, class Arch = simd::default_arch>
void sparse_transposed(executor_ref exec, const sparse_rows<T>& a,
                       std::type_identity_t<matrix_view<const T>> x, matrix_view<T> z) {
    static constexpr auto table =
        detail::sparse_table<T, Arch>(std::make_integer_sequence<int, detail::sparse_vectors>{});
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t tokens = detail::sparse_vectors * L;
    parallel_ranges(
        exec, x.rows, tokens,
        [&](index_t begin, index_t end) {
            // Whole tiles, then the rest in as few registers as hold it.
            const index_t whole = begin + (end - begin) / tokens * tokens;
            table.back()(a, x, begin, whole, z);
            if (whole < end)
                table[static_cast<std::size_t>(divide_up(end - whole, L) - 1)](a, x, whole, end, z);
        },
        tokens);
}

}  // namespace mox::inline MOX_ABI::kernel
