#pragma once

// What a layer or a policy says about its numbers. Their place in memory is layer/parameter.hpp's business.

#include <string_view>

#include <mox/core/view.hpp>

namespace mox::inline MOX_ABI {

/// How a tensor lies in memory.
enum class storage {
    vector,         ///< `cols` values
    rows,           ///< row-major rows x cols (embeddings)
    panels,         ///< weight of y = x W, rows = inputs, cols = outputs; see kernel/panels.hpp
    gated_panels,   ///< two weights (gate, up) of `cols` units each in common panels
    packed,         ///< panels of fewer bits (kernel/weight_format.hpp), in bytes
    gated_packed,   ///< gated panels of fewer bits
    sparse_panels,  ///< panels of which most values are zero, and an index of the others behind them
};

/// A weight format as tensors see it: whole matrices in and out, row-major, gate columns before up columns.
/// Sizes are in bytes and multiples of 64.
struct packed_format {
    std::string_view name;
    index_t (*bytes)(index_t rows, index_t cols, bool gated);
    void (*pack)(const double* values, index_t rows, index_t cols, bool gated, void* to);
    void (*unpack)(const void* from, index_t rows, index_t cols, bool gated, double* values);
};

/// Initial values: a constant, or normal numbers; `fan_in` has deviation 1/sqrt(rows). `uniform_cols` lies
/// evenly in +-1/sqrt(cols): the usual start of a map that is stored output by output; `uniform_rows` in
/// +-1/sqrt(rows): the same for one that is not. `sparse_rows`: some values of each row, at random places,
/// normal with deviation 1/rows, the others zero. `constant`: the number that the parameter names; `normal`:
/// normal with that deviation.
enum class fill {
    zeros,
    ones,
    fan_in,
    small,
    embedding,
    uniform_cols,
    uniform_rows,
    sparse_rows,
    constant,
    normal,
};

/// One named tensor of a layer, or `count` of them in a stack (one per expert).
struct parameter {
    std::string_view name;
    storage form = storage::vector;
    index_t count = 1;
    index_t rows = 1;
    index_t cols = 0;
    fill init = fill::fan_in;
    bool writes_residual = false;  ///< initial values are scaled by 1/sqrt(2 blocks)
    bool decays = true;            ///< weight decay applies (not to norms, biases and router biases)
    bool trained = true;           ///< false: no gradient and no optimiser state
    index_t row_values = 0;        ///< of fill::sparse_rows: values per row that are not zero
    double constant = 0;           ///< of fill::constant and fill::normal
    const packed_format* packing = nullptr;  ///< of storage::packed and storage::gated_packed

    constexpr bool gated() const noexcept {
        return form == storage::gated_panels || form == storage::gated_packed;
    }
    /// Columns a user sees: a gated tensor shows its gate columns, then its up columns.
    constexpr index_t logical_cols() const noexcept { return gated() ? 2 * cols : cols; }
    constexpr index_t logical_size() const noexcept { return count * rows * logical_cols(); }
};

/// Where a tensor lies: in the buffer of what is trained, or in that of what is not.
struct tensor_place {
    index_t offset = 0;
    bool trained = true;
};

/// Some tensors of a layer: pointers into the buffers of the network. A list of gradients has none for a
/// tensor that is not trained: its pointer is null.
template <class T>
struct tensor_list {
    T* trained = nullptr;
    T* frozen = nullptr;
    const tensor_place* places = nullptr;
    constexpr T* operator[](index_t i) const noexcept {
        T* const base = places[i].trained ? trained : frozen;
        return base == nullptr ? nullptr : base + places[i].offset;
    }
    /// The list from tensor i on.
    constexpr tensor_list from(index_t i) const noexcept { return {trained, frozen, places + i}; }
};

}  // namespace mox::inline MOX_ABI
