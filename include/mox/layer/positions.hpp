#pragma once

#include <mox/kernel/elementwise.hpp>
#include <mox/layer/context.hpp>

namespace mox::inline MOX_ABI {

/// y_t = x_t + P[position of t], a learned vector for each of the first `Count` positions of a sequence
/// (arXiv 1706.03762, section 3.5, learned variant). The vector of position 0 makes a class token out of an
/// empty first row. A position of `Count` or more throws mox::error.
template <index_t Count, index_t Width>
struct learned_positions {
    static_assert(Count > 0 && Width > 0, "mox::learned_positions: count and width must be positive");

    static constexpr std::string_view name = "learned_positions";
    static constexpr index_t in = Width;
    static constexpr index_t out = Width;

    static constexpr std::array parameters{parameter{
        .name = "table", .form = storage::rows, .rows = Count, .cols = Width, .init = fill::embedding}};

    static constexpr double flops(double /*context*/) { return Width; }

    struct record {
        index_t rows;
    };

    template <class T>
    static void forward(context<T>& ctx, param_ref<learned_positions, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        const row_t* position = ctx.rows.positions;
        check::ids("mox::learned_positions", "positions", position, x.rows, Count);
        parallel_ranges(ctx.exec, x.rows, 256, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                const T* from = x.row(t);
                const T* add = w[0] + position[t] * Width;
                T* to = y.row(t);
                for (index_t j = 0; j < Width; ++j) to[j] = from[j] + add[j];
            }
        });
        ctx.save(record{x.rows});
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<learned_positions, const T>,
                         param_ref<learned_positions, T> g, matrix_view<const T> dy, matrix_view<T> dx) {
        (void)ctx.template restore<record>();
        if (g) add_to_table(ctx, g[0], dy);
        if (ctx.input_gradient) kernel::copy_rows<T>(ctx.exec, dy, dx);
    }

private:
    // Columns are split over threads: a row of the table sums its tokens in their order.
    template <class T>
    static void add_to_table(context<T>& ctx, T* table, matrix_view<const T> dy) {
        parallel_ranges(
            ctx.exec, Width, 32,
            [&](index_t begin, index_t end) {
                if (!ctx.accumulate) {
                    for (index_t p = 0; p < Count; ++p) {
                        std::fill(table + p * Width + begin, table + p * Width + end, T(0));
                    }
                }
                for (index_t t = 0; t < dy.rows; ++t) {
                    T* to = table + ctx.rows.positions[t] * Width;
                    const T* from = dy.row(t);
                    for (index_t j = begin; j < end; ++j) to[j] += from[j];
                }
            },
            16);
    }
};

}  // namespace mox::inline MOX_ABI
