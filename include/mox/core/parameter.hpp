#pragma once

// What a layer or a policy says about its numbers. Their place in memory is layer/parameter.hpp's business.

#include <string_view>

#include <mox/core/view.hpp>

namespace mox::inline MOX_ABI {

/// How a tensor lies in memory.
enum class storage {
    vector,        ///< `cols` values
    rows,          ///< row-major rows x cols (embeddings)
    panels,        ///< weight of y = x W, rows = inputs, cols = outputs; see kernel/panels.hpp
    gated_panels,  ///< two weights (gate, up) of `cols` units each in common panels
};

/// Initial values: a constant, or normal numbers. `fan_in` is 1/sqrt(inputs).
enum class fill { zeros, ones, fan_in, small, embedding };

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

    /// Columns a user sees: a gated tensor shows its gate columns, then its up columns.
    constexpr index_t logical_cols() const noexcept {
        return form == storage::gated_panels ? 2 * cols : cols;
    }
    constexpr index_t logical_size() const noexcept { return count * rows * logical_cols(); }
};

/// Some tensors of a layer: pointers into the flat buffer of the network.
template <class T>
struct tensor_list {
    T* base = nullptr;
    const index_t* offsets = nullptr;
    constexpr T* operator[](index_t i) const noexcept { return base + offsets[i]; }
    /// The list from tensor i on.
    constexpr tensor_list from(index_t i) const noexcept { return {base, offsets + i}; }
};

}  // namespace mox::inline MOX_ABI
