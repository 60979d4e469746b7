#pragma once

#include <mox/core/coefficient.hpp>
#include <mox/layer/context.hpp>

namespace mox::inline MOX_ABI {

/// y = x where x > 0, else slope * x; one trained slope for all units (Delving Deep into Rectifiers, arXiv
/// 1502.01852, channel-shared). The derivative at 0 is the slope. The reward head of DMoERM (arXiv
/// 2403.01197) on K hidden states of width h side by side is
///   stack<linear<K * h, h, bias::with>, prelu<h>, linear<h, 1, bias::with>>
/// trained with mox::pairwise_ranking_loss.
template <index_t Width, coefficient Slope = coefficient{0.25}>
struct prelu {
    static_assert(Width > 0, "mox::prelu: the width must be positive");
    static constexpr std::string_view name = "prelu";
    static constexpr index_t in = Width;
    static constexpr index_t out = Width;
    static constexpr std::array parameters{parameter{
        .name = "slope", .cols = 1, .init = fill::constant, .decays = false, .constant = Slope.value}};
    static constexpr double flops(double /*context*/) { return Width; }

    template <class T>
    struct record {
        matrix_view<const T> x;
    };

    template <class T>
    static void forward(context<T>& ctx, param_ref<prelu, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        const T slope = w[0][0];
        parallel_ranges(ctx.exec, x.rows, 64, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                const T* from = x.row(t);
                T* to = y.row(t);
                for (index_t j = 0; j < Width; ++j) to[j] = from[j] > T(0) ? from[j] : slope * from[j];
            }
        });
        ctx.save(record<T>{x});
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<prelu, const T> w, param_ref<prelu, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const matrix_view<const T> x = ctx.template restore<record<T>>().x;
        const T slope = w[0][0];
        if (g) {
            // A sum per row, added in order: the same for any number of threads.
            const arena_scope scope(*ctx.scratch);
            T* sums = ctx.scratch->template take<T>(x.rows);
            parallel_ranges(ctx.exec, x.rows, 64, [&](index_t begin, index_t end) {
                for (index_t t = begin; t < end; ++t) {
                    sums[t] = 0;
                    for (index_t j = 0; j < Width; ++j) {
                        if (!(x(t, j) > T(0))) sums[t] += dy(t, j) * x(t, j);
                    }
                }
            });
            T sum = ctx.accumulate ? g[0][0] : T(0);
            for (index_t t = 0; t < x.rows; ++t) sum += sums[t];
            g[0][0] = sum;
        }
        if (!ctx.input_gradient) return;
        parallel_ranges(ctx.exec, x.rows, 64, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                for (index_t j = 0; j < Width; ++j) dx(t, j) = x(t, j) > T(0) ? dy(t, j) : slope * dy(t, j);
            }
        });
    }
};

}  // namespace mox::inline MOX_ABI
