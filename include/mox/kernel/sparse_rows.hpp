#pragma once

// Products with a matrix most of whose values are zero and never change place: the frozen random projection
// of an adapter. Lanes are tokens: x is turned round a block at a time, so that one value of the matrix meets
// as many tokens as registers hold, and the places of the values cost nothing but an address.

#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/panels.hpp>
#include <mox/simd/batch.hpp>
#include <mox/simd/transpose.hpp>

namespace mox::inline MOX_ABI::kernel {

/// A value that is not zero, and where the column it meets lies in a block of x.
template <class T>
struct sparse_value {
    T value;
    row_t at;
};

/// The values of a matrix by blocks of `sparse_columns` columns, inside a block row by row.
template <class T>
struct sparse_rows {
    const sparse_value<T>* values = nullptr;
    const row_t* starts = nullptr;  ///< of each row of each block, and the end
    index_t rows = 0, cols = 0;

    index_t size() const noexcept { return starts[sparse_starts(rows, cols) - 1]; }
    static constexpr index_t sparse_starts(index_t rows, index_t cols) noexcept;
};

namespace detail {

// Either zero, by its bits: half the time of a comparison that minds NaN.
template <class T>
MOX_INLINE bool is_zero(T value) noexcept {
    std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t> bits;
    static_assert(sizeof(bits) == sizeof(T));
    std::memcpy(&bits, &value, sizeof(T));
    return (bits << 1) == 0;
}

// 64 columns of 64 tokens are 16 KB of f32. Measured with 32 rows, a quarter of 1024 columns, 512 tokens: 32,
// 64, 128: 148, 151, 160 us.
inline constexpr index_t sparse_columns = 64;

// Registers of tokens that meet a value together: the value is spread once for all of them. Measured 2, 3, 4:
// 172, 161, 151 us.
inline constexpr int sparse_vectors = 4;

// Rows of the matrix that are summed together, so that the sums fit the stack.
inline constexpr index_t sparse_height = 64;

// A block of x that will be turned round, whole registers of tokens and of columns only.
template <class T, class Arch>
struct turned_block {
    static constexpr index_t across = sparse_columns / simd::lanes<T, Arch>;

    const T* from = nullptr;  ///< null: nothing to turn
    index_t stride = 0;
    T* to = nullptr;

    // Square i of V * across.
    MOX_INLINE void turn(index_t i) const noexcept {
        constexpr index_t L = simd::lanes<T, Arch>;
        const index_t v = i / across, column = i % across * L;
        simd::transpose_square<T, Arch>(from + v * L * stride + column, stride,
                                        to + (v * sparse_columns + column) * L, L);
    }
};

// sums[r][V registers] += values of row r times the columns they meet; register v of column c lies at
// c * lanes + v * sparse_columns * lanes. Between the rows the next block is turned round: the sums wait for
// loads, the turning for shuffles, and the core does both at a time (measured: 151 us for both, 178 one after
// the other).
template <class T, class Arch, int V>
MOX_NOINLINE void add_sparse(const sparse_value<T>* values, const row_t* starts, index_t rows,
                             const T* columns, T* sums, turned_block<T, Arch> next) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t squares = V * turned_block<T, Arch>::across;
    index_t turned = next.from ? 0 : squares;
    for (index_t r = 0; r < rows; ++r, sums += V * L) {
        for (; turned * rows < (r + 1) * squares && turned < squares; ++turned) next.turn(turned);
        batch acc[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[v] = simd::load<T, Arch>(sums + v * L);
        const sparse_value<T>* const end = values + starts[r + 1];
        for (const sparse_value<T>* e = values + starts[r]; e != end; ++e) {
            const batch a(e->value);
            const T* from = columns + e->at;
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v)
                acc[v] = simd::fma(a, simd::load<T, Arch>(from + v * sparse_columns * L), acc[v]);
        }
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) simd::store(sums + v * L, acc[v]);
    }
}

// columns = `size` columns of x from c0 on, for `count` tokens in V registers; lanes without a token are
// zero.
template <class T, class Arch, int V>
void turn_block(matrix_view<const T> x, index_t t0, index_t count, index_t c0, index_t size, T* columns) {
    constexpr index_t L = simd::lanes<T, Arch>;
    for (index_t v = 0; v < V; ++v, columns += sparse_columns * L) {
        const index_t here = std::min(L, count - v * L);
        if (here == L) {
            simd::transpose_lanes<T, Arch>(x.row(t0 + v * L) + c0, x.stride, size, columns);
            continue;
        }
        std::fill_n(columns, size * L, T(0));
        for (index_t i = 0; i < here; ++i) {
            for (index_t c = 0; c < size; ++c) columns[c * L + i] = x(t0 + v * L + i, c0 + c);
        }
    }
}

// z[t0 + i][r0 ...] = row i of x times the rows [r0, r0 + rows), for `count` tokens in V registers.
template <class T, class Arch, int V>
void sparse_block(const sparse_rows<T>& a, index_t r0, index_t rows, matrix_view<const T> x, index_t t0,
                  index_t count, matrix_view<T> z) {
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t block = sparse_columns * V * L;
    alignas(64) T both[static_cast<std::size_t>(2 * block)];
    alignas(64) T sums[static_cast<std::size_t>(sparse_height * V * L)];
    std::fill_n(sums, rows * V * L, T(0));
    T *columns = both, *ahead = both + block;
    for (index_t c0 = 0, size = 0; c0 < a.cols; c0 += size) {
        size = std::min(sparse_columns, a.cols - c0);
        const bool turned = c0 > 0 && count == V * L && size == sparse_columns;
        if (!turned) turn_block<T, Arch, V>(x, t0, count, c0, size, columns);
        turned_block<T, Arch> next{};
        if (count == V * L && c0 + 2 * sparse_columns <= a.cols)
            next = {x.row(t0) + c0 + sparse_columns, x.stride, ahead};
        add_sparse<T, Arch, V>(a.values, a.starts + c0 / sparse_columns * a.rows + r0, rows, columns, sums,
                               next);
        if (next.from) std::swap(columns, ahead);
    }
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

template <class T, class Arch, int... I>
constexpr auto sparse_blocks(std::integer_sequence<int, I...>) {
    return std::array{&sparse_block<T, Arch, I + 1>...};
}

}  // namespace detail

template <class T>
constexpr index_t sparse_rows<T>::sparse_starts(index_t rows, index_t cols) noexcept {
    return divide_up(cols, detail::sparse_columns) * rows + 1;
}

/// Collects the values of `w` that are not zero. values: one more than `w` has; starts: sparse_starts of
/// them. `cols`: valid columns of w.
template <class T, class Arch = simd::default_arch>
sparse_rows<T> find_sparse_rows(std::type_identity_t<panel_view<const T, Arch>> w, index_t cols,
                                sparse_value<T>* values, row_t* starts) {
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t W = panel_width<T, Arch>;
    index_t n = 0;
    row_t* start = starts;
    for (index_t c0 = 0; c0 < cols; c0 += detail::sparse_columns) {
        const index_t c1 = std::min(cols, c0 + detail::sparse_columns);
        for (index_t r = 0; r < w.rows; ++r) {
            *start++ = static_cast<row_t>(n);
            for (index_t c = c0; c < c1;) {
                const index_t p = c / W, run = std::min(c1, (p + 1) * W) - c;
                const T* from = w.panel(p) + r * w.width(p) + (c - p * W);
                // Every value is written, the place moves on behind those that count: no branch to miss.
                for (index_t i = 0; i < run; ++i) {
                    values[n] = {from[i], static_cast<row_t>((c - c0 + i) * L)};
                    n += detail::is_zero(from[i]) ? 0 : 1;
                }
                c += run;
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
        detail::sparse_blocks<T, Arch>(std::make_integer_sequence<int, detail::sparse_vectors>{});
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t tokens = detail::sparse_vectors * L;
    parallel_ranges(
        exec, x.rows, tokens,
        [&](index_t begin, index_t end) {
            for (index_t t0 = begin; t0 < end; t0 += tokens) {
                const index_t count = std::min(tokens, end - t0);
                const auto sums = table[static_cast<std::size_t>(divide_up(count, L) - 1)];
                for (index_t r0 = 0; r0 < a.rows; r0 += detail::sparse_height)
                    sums(a, r0, std::min(detail::sparse_height, a.rows - r0), x, t0, count, z);
            }
        },
        tokens);
}

}  // namespace mox::inline MOX_ABI::kernel
