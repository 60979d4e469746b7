#pragma once

#include <mox/core/random.hpp>
#include <mox/layer/context.hpp>

namespace mox::inline MOX_ABI {

/// Inverted dropout (arXiv 1207.0580): in training each value is zero with a probability, else divided by
/// 1 - probability. Written by the layers that use it; the mask is not stored but drawn again.
struct dropout_draw {
    std::uint64_t seed = 0, stream = 0;
    double probability = 0;  ///< 0: nothing is dropped

    bool active() const noexcept { return probability > 0; }

    /// The next draw of this step. Takes a number also when nothing is dropped, so that the layers behind
    /// draw the same in training and evaluation.
    template <class T>
    static dropout_draw next(context<T>& ctx, double probability) {
        const auto layer = static_cast<std::uint64_t>(ctx.next_draw++);
        if (ctx.mode != phase::train) probability = 0;
        return {ctx.seed, ctx.step << 20 | layer, probability};
    }

    /// to (+)= from * mask / (1 - probability).
    template <class T>
    void apply(executor_ref exec, std::type_identity_t<matrix_view<const T>> from, matrix_view<T> to,
               bool accumulate) const {
        const random_stream numbers(seed, stream);
        const auto limit = static_cast<std::uint32_t>(probability * 0x1p32);
        const T scale = static_cast<T>(1.0 / (1.0 - probability));
        parallel_ranges(exec, from.rows, 16, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                for (index_t j = 0; j < from.cols; j += 4) {
                    const auto bits =
                        numbers.block(static_cast<std::uint64_t>(t * divide_up(from.cols, 4) + j / 4));
                    for (index_t i = j; i < std::min(j + 4, from.cols); ++i) {
                        const T v = bits[static_cast<std::size_t>(i - j)] < limit ? T(0) : scale * from(t, i);
                        to(t, i) = accumulate ? to(t, i) + v : v;
                    }
                }
            }
        });
    }
};

}  // namespace mox::inline MOX_ABI
