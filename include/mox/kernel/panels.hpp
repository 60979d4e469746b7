#pragma once

// The storage format of every weight matrix: column panels, k-major.
//
// A matrix W of K rows (inputs) and N columns (outputs), y = x W, is cut into panels of `panel_width`
// columns; inside a panel row k holds its columns side by side. The forward kernel reads a panel from its
// first to its last byte; the products with W transposed and the weight gradient walk the same memory, and
// optimisers work on it element by element. So there is one copy of the weights, and nothing is packed per
// step. The last panel is narrower (a multiple of one register), its unused columns hold zeros.
//
// Gated matrices keep two K x H maps (gate, up) in one set of panels: each panel holds the gate columns of
// some hidden units and behind them the up columns of the same units, so that silu(gate) * up is computed
// from one tile.

#include <algorithm>
#include <type_traits>

#include <mox/core/buffer.hpp>
#include <mox/simd/arch.hpp>

namespace mox::inline MOX_ABI::kernel {

/// Registers side by side in a tile. Measured on gathered rows: 6 x 4 registers of accumulators are best
/// where there are 32 registers (24 accumulators, 4 panel loads, 1 broadcast), 6 x 2 where there are 16.
template <class Arch = simd::default_arch>
inline constexpr index_t panel_vectors = simd::registers<Arch> == 32 ? 4 : 2;

template <class T, class Arch = simd::default_arch>
inline constexpr index_t panel_width = panel_vectors<Arch>* simd::lanes<std::remove_const_t<T>, Arch>;

/// Where element (k, n) of a K x N matrix lies; all sizes in elements.
template <class T, class Arch = simd::default_arch>
struct panel_layout {
    static constexpr index_t width = panel_width<T, Arch>;
    static constexpr index_t lanes = simd::lanes<std::remove_const_t<T>, Arch>;

    /// Columns in memory of a plain matrix with `n` columns.
    static constexpr index_t padded(index_t n) noexcept { return round_up(n, lanes); }
    /// Columns in memory of a gated matrix with `hidden` units.
    static constexpr index_t padded_gated(index_t hidden) noexcept { return 2 * round_up(hidden, lanes); }

    static constexpr index_t offset(index_t k_rows, index_t padded_cols, index_t k, index_t col) noexcept {
        const index_t p = col / width;
        const index_t w = std::min(width, padded_cols - p * width);
        return k_rows * p * width + k * w + (col - p * width);
    }

    /// Column in memory of hidden unit j's gate (part 0) or up (part 1).
    static constexpr index_t gated_column(index_t hidden, index_t j, index_t part) noexcept {
        constexpr index_t half = width / 2;
        const index_t p = j / half;
        const index_t units = std::min(half, round_up(hidden - p * half, lanes));
        return p * width + part * units + (j - p * half);
    }
    /// The unit that a column in memory belongs to (at least `hidden` for padding), and its part.
    static constexpr index_t gated_unit(index_t hidden, index_t col) noexcept {
        return col / width * (width / 2) + col % width % gated_units(hidden, col);
    }
    static constexpr index_t gated_part(index_t hidden, index_t col) noexcept {
        return col % width / gated_units(hidden, col);
    }

private:
    static constexpr index_t gated_units(index_t hidden, index_t col) noexcept {
        constexpr index_t half = width / 2;
        return std::min(half, round_up(hidden - col / width * half, lanes));
    }
};

/// A weight matrix in panels, or a range of the rows of one.
template <class T, class Arch = simd::default_arch>
struct panel_view {
    using layout = panel_layout<T, Arch>;

    T* data = nullptr;   ///< of the whole matrix
    index_t rows = 0;    ///< K, inputs
    index_t cols = 0;    ///< columns in memory: N padded to whole registers
    index_t first = 0;   ///< first row of the range
    index_t height = 0;  ///< rows of the whole matrix

    constexpr panel_view() = default;
    constexpr panel_view(T* data_, index_t rows_, index_t cols_) noexcept
        : data(data_), rows(rows_), cols(cols_), height(rows_) {}
    template <class U>
    requires(std::is_same_v<const U, T>) constexpr panel_view(const panel_view<U, Arch>& other) noexcept
        : data(other.data), rows(other.rows), cols(other.cols), first(other.first), height(other.height) {}

    /// Rows [begin, end).
    constexpr panel_view row_range(index_t begin, index_t end) const noexcept {
        panel_view range = *this;
        range.first += begin;
        range.rows = end - begin;
        return range;
    }

    constexpr index_t panels() const noexcept { return divide_up(cols, layout::width); }
    constexpr index_t width(index_t p) const noexcept {
        return std::min(layout::width, cols - p * layout::width);
    }
    constexpr T* panel(index_t p) const noexcept {
        return data + height * p * layout::width + first * width(p);
    }
    constexpr index_t size() const noexcept { return rows * cols; }
    /// Element (k, column in memory).
    constexpr T& operator()(index_t k, index_t col) const noexcept {
        return data[layout::offset(height, cols, first + k, col)];
    }
};

}  // namespace mox::inline MOX_ABI::kernel
