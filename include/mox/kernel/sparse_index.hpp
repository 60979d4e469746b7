#pragma once

// The values of a matrix that are not zero, in the order in which kernel/sparse_rows.hpp meets them. They are
// found when the matrix is written, and lie behind its panels.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include <mox/core/buffer.hpp>
#include <mox/kernel/panels.hpp>
#include <mox/simd/placed.hpp>

namespace mox::inline MOX_ABI::kernel {

namespace detail {

// 64 columns of 64 tokens are 16 KB of f32, and the columns of a block are the bits of a word. Measured with
// 32 rows, a quarter of 1024 columns, 512 tokens: 32, 64, 96, 128: 140, 131, 143, 146 us.
inline constexpr index_t sparse_columns = 64;

// Registers of tokens that meet a value together: the value is spread once for all of them. Measured 4, 6, 8:
// 131, 134, 148 us; 2, 3, 4 of an earlier version: 172, 161, 151 us.
inline constexpr index_t sparse_vectors = 4;

// Values between the columns of a block of tokens.
template <class T, class Arch>
inline constexpr index_t sparse_pitch = sparse_vectors* simd::lanes<T, Arch>;

// Rows of the matrix that are summed together, so that the sums fit the stack.
inline constexpr index_t sparse_height = 64;

// Two rows of a block that are summed together: a column that both need is loaded once. Each block has its
// own pairs, of rows that have many columns in common: with a quarter of the values 0.8 loads for one
// without. Measured with 512, 256, 128 bits: 0.92, 1.00, 0.93 of the time of single rows; three rows
// take 1.00 and four 1.02 of that of two.
struct sparse_pair {
    row_t row[2];    ///< from the first of those summed together; sparse_height where there is none
    row_t begin[4];  ///< values before each list and the last one's end: columns of row 0 alone, of row 1
                     ///< alone, of both, with a value for each
};

// Either zero, by its bits: NaN is a value, and so is what the processor takes for zero.
template <class T>
bool is_zero(T value) noexcept {
    using bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    return std::bit_cast<bits>(value) << 1 == 0;
}

// Takes the pair of rows out of `left` that has most columns in common. columns: of each row, a bit a column.
inline void take_pair(std::vector<row_t>& left, const std::vector<std::uint64_t>& columns, row_t (&pair)[2]) {
    std::size_t first = 0, second = 0;
    int most = -1;
    for (std::size_t i = 0; i < left.size(); ++i) {
        for (std::size_t j = i + 1; j < left.size(); ++j) {
            const int shared = std::popcount(columns[static_cast<std::size_t>(left[i])] &
                                             columns[static_cast<std::size_t>(left[j])]);
            if (shared > most) {
                most = shared;
                first = i;
                second = j;
            }
        }
    }
    pair[0] = left[first];
    pair[1] = second > first ? left[second] : static_cast<row_t>(sparse_height);
    if (second > first) left.erase(left.begin() + static_cast<std::ptrdiff_t>(second));
    left.erase(left.begin() + static_cast<std::ptrdiff_t>(first));
}

}  // namespace detail

/// The values of a rows x cols matrix that are not zero, by blocks of columns.
template <class T, class Arch = simd::default_arch>
struct sparse_rows {
    using pair = detail::sparse_pair;

    const std::byte* index = nullptr;
    index_t rows = 0, cols = 0;

    /// Bytes of an index: it has room for half of the values; with more a plain product is as fast.
    static constexpr index_t bytes(index_t rows, index_t cols) noexcept {
        return values_from(rows, cols) + rows * cols / 2 * static_cast<index_t>(sizeof(simd::placed<T>));
    }

    /// How many values are not zero; -1 when there is no index, as they are too many or were never looked at.
    index_t size() const noexcept {
        std::int64_t found;
        std::memcpy(&found, index, sizeof(found));
        return static_cast<index_t>(found) - 1;
    }

    /// The pairs of a block of columns for the rows from `row` on, a multiple of detail::sparse_height.
    const pair* pairs(index_t block, index_t row) const noexcept {
        return reinterpret_cast<const pair*>(index + pairs_from(rows, block, row));
    }
    const std::byte* values() const noexcept { return index + values_from(rows, cols); }

    /// Where things lie, from the begin of the index.
    static constexpr index_t pairs_from(index_t rows, index_t block, index_t row) noexcept {
        return static_cast<index_t>(alignment) +
               (block * divide_up(rows, index_t{2}) + row / 2) * static_cast<index_t>(sizeof(pair));
    }
    static constexpr index_t values_from(index_t rows, index_t cols) noexcept {
        return round_up(pairs_from(rows, divide_up(cols, detail::sparse_columns), 0),
                        static_cast<index_t>(alignment));
    }
};

/// Writes the index of `w`, sparse_rows::bytes of it. `cols`: valid columns of w.
template <class T, class Arch = simd::default_arch>
void index_sparse_rows(std::type_identity_t<panel_view<const T, Arch>> w, index_t cols, std::byte* index) {
    using view = sparse_rows<T, Arch>;
    index_t found = 0;
    for (index_t r = 0; r < w.rows; ++r) {
        for (index_t c = 0; c < cols; ++c) found += detail::is_zero(w(r, c)) ? 0 : 1;
    }
    if (2 * found > w.rows * cols) found = -1;
    const auto size = static_cast<std::int64_t>(found + 1);
    std::memcpy(index, &size, sizeof(size));
    if (found < 0) return;

    index_t n = 0;
    std::byte* const values = index + view::values_from(w.rows, cols);
    const auto append = [&](index_t r, index_t c0, index_t c) {
        constexpr auto pitch = static_cast<row_t>(detail::sparse_pitch<T, Arch>);
        const simd::placed<T> value{w(r, c0 + c), static_cast<row_t>(c) * pitch};
        std::memcpy(values + n++ * static_cast<index_t>(sizeof(value)), &value, sizeof(value));
    };
    for (index_t c0 = 0; c0 < cols; c0 += detail::sparse_columns) {
        const index_t width = std::min(detail::sparse_columns, cols - c0);
        for (index_t r0 = 0; r0 < w.rows; r0 += detail::sparse_height) {
            const index_t height = std::min(detail::sparse_height, w.rows - r0);
            std::vector<std::uint64_t> columns(static_cast<std::size_t>(detail::sparse_height + 1));
            std::vector<row_t> left;
            for (index_t r = 0; r < height; ++r) {
                left.push_back(static_cast<row_t>(r));
                for (index_t c = 0; c < width; ++c) {
                    if (!detail::is_zero(w(r0 + r, c0 + c)))
                        columns[static_cast<std::size_t>(r)] |= std::uint64_t{1} << c;
                }
            }
            std::byte* to = index + view::pairs_from(w.rows, c0 / detail::sparse_columns, r0);
            for (; !left.empty(); to += sizeof(detail::sparse_pair)) {
                detail::sparse_pair pair{};
                detail::take_pair(left, columns, pair.row);
                for (int list = 0; list < 3; ++list) {
                    pair.begin[list] = static_cast<row_t>(n);
                    for (index_t c = 0; c < width; ++c) {
                        const bool first = columns[static_cast<std::size_t>(pair.row[0])] >> c & 1,
                                   second = columns[static_cast<std::size_t>(pair.row[1])] >> c & 1;
                        if (first != (list != 1) || second != (list != 0)) continue;
                        if (first) append(r0 + pair.row[0], c0, c);
                        if (second) append(r0 + pair.row[1], c0, c);
                    }
                }
                pair.begin[3] = static_cast<row_t>(n);
                std::memcpy(to, &pair, sizeof(pair));
            }
        }
    }
}

}  // namespace mox::inline MOX_ABI::kernel
