#pragma once

#include <span>

#include <mox/layer/context.hpp>

namespace mox::inline MOX_ABI {

/// Token ids as the input of a network.
using token_ids = std::span<const row_t>;

/// y_t = table[id_t]. ids from 0 to Vocabulary - 1.
template <index_t Vocabulary, index_t Width>
struct embedding {
    static_assert(Vocabulary > 0 && Width > 0, "mox::embedding: vocabulary and width must be positive");

    static constexpr std::string_view name = "embedding";
    static constexpr index_t vocabulary = Vocabulary;
    static constexpr index_t in = Vocabulary;
    static constexpr index_t out = Width;
    using input = token_ids;

    static constexpr std::array parameters{parameter{
        .name = "table", .form = storage::rows, .rows = Vocabulary, .cols = Width, .init = fill::embedding}};

    static constexpr double flops(double /*context*/) { return 0; }
    static constexpr double active_share(index_t) { return 1.0 / Vocabulary; }

    template <class T>
    struct record {
        const row_t* ids;
        index_t count;
    };

    template <class T>
    static void forward(context<T>& ctx, param_ref<embedding, const T> w, token_ids ids, matrix_view<T> y) {
        check::ids("mox::embedding", "ids", ids.data(), ssize_of(ids), Vocabulary);
        const row_t* id = ids.data();
        const T* table = w[0];
        parallel_ranges(ctx.exec, y.rows, 256, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) std::copy_n(table + id[t] * Width, Width, y.row(t));
        });
        ctx.save(record<T>{id, y.rows});
    }

    /// There is no gradient of ids; dx is not touched.
    template <class T>
    static void backward(context<T>& ctx, param_ref<embedding, const T>, param_ref<embedding, T> g,
                         matrix_view<const T> dy, matrix_view<T> /*dx*/) {
        const auto r = ctx.template restore<record<T>>();
        if (!g) return;
        T* table = g[0];
        // Columns are split over threads: a row of the table sums its tokens in their order.
        parallel_ranges(
            ctx.exec, Width, 32,
            [&](index_t begin, index_t end) {
                if (!ctx.accumulate) {
                    for (index_t v = 0; v < Vocabulary; ++v) {
                        std::fill(table + v * Width + begin, table + v * Width + end, T(0));
                    }
                }
                for (index_t t = 0; t < r.count; ++t) {
                    T* to = table + r.ids[t] * Width;
                    const T* from = dy.row(t);
                    for (index_t j = begin; j < end; ++j) to[j] += from[j];
                }
            },
            16);
    }
};

}  // namespace mox::inline MOX_ABI
