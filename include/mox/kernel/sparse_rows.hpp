#pragma once

// Products with a matrix most of whose values are zero and never change place: the frozen random projection
// of an adapter. Lanes are tokens: x is turned round a block at a time, so that one value of the matrix meets
// as many tokens as registers hold, and the places of the values cost nothing but an address.

#include <array>
#include <utility>

#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/sparse_index.hpp>
#include <mox/kernel/streaming.hpp>
#include <mox/simd/batch.hpp>
#include <mox/simd/transpose.hpp>

namespace mox::inline MOX_ABI::kernel {

/// Sums of tokens as their kernel has them: of token t0 + i and row r0 + r at [r * pitch + i]. All lanes may
/// be read; those behind the `count` tokens hold zero.
template <class T, class Arch, int V>
struct turned_sums {
    static constexpr index_t L = simd::lanes<T, Arch>, pitch = V * L;

    const T* at;
    index_t t0, count;  ///< tokens
    index_t r0, rows;   ///< of the matrix

    /// z[t0 + i][r0 + r] = the sums.
    void write(matrix_view<T> z) const noexcept {
        for (index_t i = 0; i < count;) {
            index_t r = 0;
            const index_t here = std::min(L, count - i);
            for (; here == L && r + L <= rows; r += L)
                simd::transpose_square<T, Arch>(at + r * pitch + i, pitch, z.row(t0 + i) + r0 + r, z.stride);
            for (; r < rows; ++r) {
                for (index_t j = i; j < i + here; ++j) z(t0 + j, r0 + r) = at[r * pitch + j];
            }
            i += here;
        }
    }
};

namespace detail {

// A block of x that is turned round while another is summed, whole registers of tokens and of columns: part
// by part, along the rows first, as the cache fetches ahead.
template <class T, class Arch, int V>
struct block_ahead {
    static constexpr index_t L = simd::lanes<T, Arch>, R = simd::turned_rows<T, Arch>;
    static constexpr index_t across = sparse_columns / L, parts = V * (L / R) * across;

    const T* from = nullptr;
    index_t stride = 0;
    T* to = nullptr;
    index_t left = 0;     ///< parts to turn
    index_t further = 0;  ///< from a part to that of the block after, which is asked for; 0: nothing is

    MOX_INLINE void load(simd::turning<T, Arch, R>& part) const noexcept {
        part.load(from, stride);
        if (further == 0) return;
#pragma GCC unroll 8
        for (index_t i = 0; i < R; ++i) simd::prefetch(from + i * stride + further);
    }
    MOX_INLINE void advance() noexcept {
        from += L;
        to += L * sparse_pitch<T, Arch>;
        if (--left % across != 0) return;
        from += R * stride - sparse_columns;
        to += R - sparse_columns * sparse_pitch<T, Arch>;
    }
};

// The sums of a pair of rows for V registers of tokens.
template <class T, class Arch, int V>
struct pair_sums {
    using batch = simd::batch<T, Arch>;
    static constexpr index_t L = simd::lanes<T, Arch>, size = sizeof(simd::placed<T>);

    batch acc[2][V];

    MOX_INLINE void load(const T* sums, const row_t (&row)[2], bool fresh) noexcept {
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
            const T* const from = sums + row[i] * (V * L);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) acc[i][v] = fresh ? batch(T(0)) : simd::load<T, Arch>(from + v * L);
        }
    }
    MOX_INLINE void store(T* sums, const row_t (&row)[2]) const noexcept {
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
            T* const to = sums + row[i] * (V * L);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) simd::store(to + v * L, acc[i][v]);
        }
    }

    /// One column of list 0, 1 or 2 of sparse_pair; returns what follows in the list.
    template <int List>
    MOX_INLINE const std::byte* add(const std::byte* at, const T* columns) noexcept {
        const auto [value, place] = simd::load_spread<T, Arch>(at);
        const T* const from = columns + place;
        if constexpr (List < 2) {
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v)
                acc[List][v] = simd::fma(value, simd::load<T, Arch>(from + v * L), acc[List][v]);
            return at + size;
        } else {
            batch x[V];  // all of them before the products (measured: 124 us; 131 in turns)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) x[v] = simd::load<T, Arch>(from + v * L);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) acc[0][v] = simd::fma(value, x[v], acc[0][v]);
            const batch other = simd::load_spread<T, Arch>(at + size).value;
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) acc[1][v] = simd::fma(other, x[v], acc[1][v]);
            return at + 2 * size;
        }
    }
};

// With registers to spare a part is loaded before the rest of the row that is summed (measured: 0.95; with 16
// registers 1.05).
template <class Arch>
inline constexpr bool loads_early = simd::registers<Arch> == 32;

// Turns the part that is in registers, or the next; meanwhile() comes before each step.
template <class T, class Arch, int V, class Meanwhile>
MOX_INLINE void turn_part(block_ahead<T, Arch, V>& next,
                          simd::turning<T, Arch, block_ahead<T, Arch, V>::R>& part, Meanwhile&& meanwhile) {
    constexpr int steps = simd::turning<T, Arch, block_ahead<T, Arch, V>::R>::steps;
    if constexpr (!loads_early<Arch>) next.load(part);
    meanwhile();
    part.template step<0>();
    meanwhile();
    if constexpr (steps > 1) part.template step<1>();
    meanwhile();
    if constexpr (steps > 2) part.template step<2>();
    part.store(next.to, sparse_pitch<T, Arch>);
    next.advance();
    if (loads_early<Arch> && next.left > 0) next.load(part);
}

// The values of one list, and a part of the next block where columns are loaded for one row each.
template <int List, class T, class Arch, int V>
MOX_INLINE void sum_list(pair_sums<T, Arch, V>& sums, const std::byte* at, const std::byte* end,
                         const T* columns, block_ahead<T, Arch, V>& next,
                         simd::turning<T, Arch, block_ahead<T, Arch, V>::R>& part) {
    if constexpr (List < 2) {
        if (next.left > 0) {
            turn_part<T, Arch, V>(
                next, part, [&]() __attribute__((always_inline)) {
                    if (at < end) [[likely]]
                        at = sums.template add<List>(at, columns);
                });
        }
    }
    while (at < end) at = sums.template add<List>(at, columns);
}

// sums[r][V registers] += values of row r times the columns they meet, from zero when `fresh`, for the rows
// from `row` on of a block of columns. The next block is turned round in between: the sums wait for loads,
// the turning for shuffles, and the core does both at a time when they are close together (measured with one
// row at a time, 512 tokens: 131 us; 145 with whole parts between rows, 150 one after the other).
template <class T, class Arch, int V>
MOX_NOINLINE void add_sparse(const sparse_rows<T, Arch>& a, index_t block, index_t row, index_t rows,
                             const T* columns, T* sums, bool fresh, block_ahead<T, Arch, V> next) {
    const index_t count = divide_up(rows, index_t{2}), parts = divide_up(next.left, count);
    simd::turning<T, Arch, next.R> part;
    if (loads_early<Arch> && next.left > 0) next.load(part);
    pair_sums<T, Arch, V> of;
    const std::byte* const values = a.values();
    const sparse_pair* pair = a.pairs(block, row);
    for (const sparse_pair* const last = pair + count; pair != last; ++pair) {
        of.load(sums, pair->row, fresh);
        const auto from = [&](int list) { return values + pair->begin[list] * of.size; };
        sum_list<0>(of, from(0), from(1), columns, next, part);
        sum_list<1>(of, from(1), from(2), columns, next, part);
        sum_list<2>(of, from(2), from(3), columns, next, part);
        of.store(sums, pair->row);
        // Few rows have few lists.
        for (index_t k = 2; k < parts && next.left > 0; ++k) turn_part<T, Arch, V>(next, part, [] {});
    }
}

// columns = `size` columns of x from c0 on, for `count` tokens in V registers; lanes without a token are
// zero.
template <class T, class Arch, int V>
void turn_block(matrix_view<const T> x, index_t t0, index_t count, index_t c0, index_t size, T* columns) {
    constexpr index_t L = simd::lanes<T, Arch>;
    for (index_t i = 0; i < V * L; i += L, columns += L) {
        const index_t here = std::clamp(count - i, index_t{0}, L);
        simd::transpose_upto<T, Arch>(here > 0 ? x.row(t0 + i) + c0 : x.data, x.stride, here, size, columns,
                                      sparse_pitch<T, Arch>);
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

// The sums of the tokens [begin, end), V registers of them at a time, to done().
template <class T, class Arch, class Done, int V>
void sparse_tokens(const sparse_rows<T, Arch>& a, matrix_view<const T> x, index_t begin, index_t end,
                   const Done& done) {
    constexpr index_t tokens = V * simd::lanes<T, Arch>, block = sparse_columns * sparse_pitch<T, Arch>;
    alignas(64) T both[static_cast<std::size_t>(2 * block)];
    alignas(64) T sums[static_cast<std::size_t>((sparse_height + 1) * tokens)];
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
        add_sparse<T, Arch, V>(a, at.c / sparse_columns, at.r, rows, columns, sums, at.c == 0, other);
        if (next.c == 0) done(turned_sums<T, Arch, V>{sums, at.t, count, at.r, rows});
        if (turned) std::swap(columns, ahead);
        at = next;
    }
}

template <class T, class Arch, class Done, int... I>
constexpr auto sparse_table(std::integer_sequence<int, I...>) {
    return std::array{&sparse_tokens<T, Arch, Done, I + 1>...};
}

}  // namespace detail

/// Sums of x A' for a matrix with an index, to done(turned_sums) as they become ready; from several threads.
/// A sum has one order, whatever block its token falls in: block of columns by block, inside one first the
/// columns that the other row of its pair does not have.
template <class T, class Arch = simd::default_arch, class Done>
void sparse_sums(executor_ref exec, const sparse_rows<T, Arch>& a,
                 std::type_identity_t<matrix_view<const T>> x, const Done& done) {
    static constexpr auto table = detail::sparse_table<T, Arch, Done>(
        std::make_integer_sequence<int, static_cast<int>(detail::sparse_vectors)>{});
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t tokens = detail::sparse_vectors * L;
    parallel_ranges(
        exec, x.rows, tokens,
        [&](index_t begin, index_t end) {
            // Whole tiles, then the rest in as few registers as hold it.
            const index_t whole = begin + (end - begin) / tokens * tokens;
            table.back()(a, x, begin, whole, done);
            if (whole < end)
                table[static_cast<std::size_t>(divide_up(end - whole, L) - 1)](a, x, whole, end, done);
        },
        tokens);
}

/// z = x A'.
template <class T, class Arch = simd::default_arch>
void sparse_transposed(executor_ref exec, const sparse_rows<T, Arch>& a,
                       std::type_identity_t<matrix_view<const T>> x, matrix_view<T> z) {
    sparse_sums<T, Arch>(exec, a, x, [z](const auto& sums) { sums.write(z); });
}

}  // namespace mox::inline MOX_ABI::kernel
