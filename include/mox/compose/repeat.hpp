#pragma once

#include <mox/compose/chain.hpp>

namespace mox::inline MOX_ABI {

/// `N` copies of a block with parameters of their own. Compile time does not depend on N.
template <index_t N, class Block>
struct repeat {
    static_assert(N > 0, "mox::repeat: the number of blocks must be positive");
    static_assert(check_layer<Block>());
    static_assert(!detail::takes_ids<Block>(), "mox::repeat: an embedding cannot be repeated");
    static_assert(Block::in == Block::out, "mox::repeat: the block must have the same width in and out");
    using children = leaves<Block>;

    static constexpr std::string_view name = "repeat";
    static constexpr index_t repetitions = N;
    /// A step can leave some of them out of training (model/trainable_mask.hpp).
    static constexpr bool makes_blocks = true;
    static constexpr index_t in = Block::in;
    static constexpr index_t out = Block::out;

    static constexpr double flops(double context) { return detail::chain<repeat>::flops(context); }

    template <class T>
    static void forward(context<T>& ctx, param_ref<repeat, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        detail::chain<repeat>::template forward<T>(ctx, w, x, y);
    }
    template <class T>
    static void backward(context<T>& ctx, param_ref<repeat, const T> w, param_ref<repeat, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        detail::chain<repeat>::template backward<T>(ctx, w, g, dy, dx);
    }
};

}  // namespace mox::inline MOX_ABI
