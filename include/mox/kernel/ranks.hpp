#pragma once

// Work on a few rows of a matrix that each token chose for itself: the ranks of a gated adapter. The rows are
// those of a panel matrix (ranks x width); a token's list has `k` of them, -1 for none.

#include <mox/kernel/elementwise.hpp>
#include <mox/kernel/panels.hpp>
#include <mox/kernel/streaming.hpp>
#include <mox/simd/batch.hpp>
#include <mox/simd/placed.hpp>

namespace mox::inline MOX_ABI::kernel {

namespace detail {

// Tokens that pass two panels together: chosen rows then come from the first cache level. Measured with 8 of
// 32 rows, tokens 64, 128, 256: 512 of 4096 columns 0.360, 0.356, 0.348 of the time of all rows, 512 of 1024
// 0.371, 0.37, 0.370. Threads share out 64 at a time.
inline constexpr index_t tokens_per_panel = 256, tokens_per_unit = 64;

// So many tokens ahead rows are asked for (asks_ahead). Measured with 2048 tokens of 1024 columns, 3, 6, 12
// of them: 1200, 1090, 1080 us for an adapter with 8 of 32 ranks.
inline constexpr index_t tokens_ahead = 6;

// y[t][0 .. V registers) += sum_j weight[t, j] panel[chosen[t, j]][...] for tokens [t0, t1); `valid` columns
// of y, whose first is `column`. y comes to the sum last: nothing waits for it (measured: 0.97 of the time of
// a sum that starts with it).
template <class T, class Arch, int V>
MOX_NOINLINE void add_chosen(const T* panel, index_t t0, index_t t1, const simd::placed<T>* chosen, index_t k,
                             matrix_view<T> y, index_t column, index_t valid) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    for (index_t t = t0; t < t1; ++t) {
        T* to = y.row(t) + column;
        batch acc[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[v] = batch(T(0));
        for (index_t i = t * k; i < (t + 1) * k; ++i) {
            const auto [w, place] = simd::load_spread<T, Arch>(chosen + i);
            if (place < 0) continue;
            const T* row = panel + place * (V * L);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) acc[v] = simd::fma(w, simd::load<T, Arch>(row + v * L), acc[v]);
        }
        if (valid == V * L) {
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) simd::store(to + v * L, acc[v] + simd::load<T, Arch>(to + v * L));
        } else {
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) {
                const index_t n = std::min(L, valid - v * L);
                simd::store_upto(to + v * L, acc[v] + simd::load_upto<T, Arch>(to + v * L, n), n);
            }
        }
    }
}

// The same for two whole panels side by side: a weight and a row number serve twice as many registers.
// Measured with 8 of 32 rows, 512 tokens, 1024 columns: 108 instead of 125 us.
template <class T, class Arch>
MOX_NOINLINE void add_chosen_pair(const T* panel, const T* next, index_t t0, index_t t1,
                                  const simd::placed<T>* chosen, index_t k, matrix_view<T> y, index_t column,
                                  bool far) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t V = panel_vectors<Arch>;
    for (index_t t = t0; t < t1; ++t) {
        T* to = y.row(t) + column;
        if (far) ask_for(y.row(t + tokens_ahead) + column, 2 * V * L);
        batch acc[2 * V];
#pragma GCC unroll 8
        for (index_t v = 0; v < 2 * V; ++v) acc[v] = batch(T(0));
        for (index_t i = t * k; i < (t + 1) * k; ++i) {
            const auto [w, place] = simd::load_spread<T, Arch>(chosen + i);
            if (place < 0) continue;
            const T* row = panel + place * (V * L);
            const T* next_row = next + place * (V * L);
#pragma GCC unroll 4
            for (index_t v = 0; v < V; ++v) acc[v] = simd::fma(w, simd::load<T, Arch>(row + v * L), acc[v]);
#pragma GCC unroll 4
            for (index_t v = 0; v < V; ++v)
                acc[V + v] = simd::fma(w, simd::load<T, Arch>(next_row + v * L), acc[V + v]);
        }
#pragma GCC unroll 8
        for (index_t v = 0; v < 2 * V; ++v) simd::store(to + v * L, acc[v] + simd::load<T, Arch>(to + v * L));
    }
}

// panel[chosen[j]][0 .. V registers) += weight[j] y[...], `valid` columns of y.
template <class T, class Arch, int V>
MOX_NOINLINE void add_to_chosen(T* panel, index_t width, const row_t* chosen, const T* weight, index_t k,
                                const T* y, index_t valid) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    batch from[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
        from[v] = valid >= (v + 1) * L ? simd::load<T, Arch>(y + v * L)
                                       : simd::load_upto<T, Arch>(y + v * L, valid - v * L);
    }
    for (index_t j = 0; j < k; ++j) {
        if (chosen[j] < 0) continue;
        T* row = panel + chosen[j] * width;
        const batch w(weight[j]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            simd::store(row + v * L, simd::fma(w, from[v], simd::load<T, Arch>(row + v * L)));
        }
    }
}

// sums[t - t0, j] += x[t] . panel[rows[t - t0, j]] lane by lane, for tokens [t0, t1) and J rows each; `valid`
// columns of x, whose first is `column`. Sums start with the first column.
template <class T, class Arch, int J>
MOX_NOINLINE void dot_chosen(const T* panel, index_t width, index_t t0, index_t t1, const row_t* rows,
                             matrix_view<const T> x, index_t column, index_t valid, bool far, T* sums) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    const index_t whole = valid / L * L;
    for (index_t t = t0; t < t1; ++t, sums += J * L) {
        const T* from = x.row(t) + column;
        if (far) ask_for(x.row(t + tokens_ahead) + column, valid);
        const T* row[J];
        batch acc[J];
#pragma GCC unroll 8
        for (int j = 0; j < J; ++j) {
            row[j] = panel + rows[(t - t0) * J + j] * width;
            acc[j] = column == 0 ? batch(T(0)) : simd::load<T, Arch>(sums + j * L);
        }
        const auto add = [&](const batch& part, index_t i) {
#pragma GCC unroll 8
            for (int j = 0; j < J; ++j) acc[j] = simd::fma(part, simd::load<T, Arch>(row[j] + i), acc[j]);
        };
        for (index_t i = 0; i < whole; i += L) add(simd::load<T, Arch>(from + i), i);
        if (whole < valid) add(simd::load_first<T, Arch>(from + whole, valid - whole), whole);
#pragma GCC unroll 8
        for (int j = 0; j < J; ++j) simd::store(sums + j * L, acc[j]);
    }
}

template <class T, class Arch>
struct chosen_table {
    static constexpr int vectors = static_cast<int>(panel_vectors<Arch>);
    using add_fn = void (*)(const T*, index_t, index_t, const simd::placed<T>*, index_t, matrix_view<T>,
                            index_t, index_t);
    using add_to_fn = void (*)(T*, index_t, const row_t*, const T*, index_t, const T*, index_t);
    using dot_fn = void (*)(const T*, index_t, index_t, index_t, const row_t*, matrix_view<const T>, index_t,
                            index_t, bool, T*);

    template <int... I>
    static constexpr auto adds(std::integer_sequence<int, I...>) {
        return std::array<add_fn, sizeof...(I)>{&add_chosen<T, Arch, I + 1>...};
    }
    template <int... I>
    static constexpr auto add_tos(std::integer_sequence<int, I...>) {
        return std::array<add_to_fn, sizeof...(I)>{&add_to_chosen<T, Arch, I + 1>...};
    }
    template <int... I>
    static constexpr auto dots(std::integer_sequence<int, I...>) {
        return std::array<dot_fn, sizeof...(I)>{&dot_chosen<T, Arch, I + 1>...};
    }
    static constexpr auto add = adds(std::make_integer_sequence<int, vectors>{});
    static constexpr auto add_to = add_tos(std::make_integer_sequence<int, vectors>{});
    static constexpr auto dot = dots(std::make_integer_sequence<int, 8>{});
};

}  // namespace detail

/// y[t] += sum_j weight[t, j] B[chosen[t, j]]; chosen: a weight and the number of its row, -1 for none.
template <class T, class Arch = simd::default_arch>
void add_chosen_rows(executor_ref exec, const simd::placed<T>* chosen, index_t k,
                     std::type_identity_t<panel_view<const T, Arch>> b, matrix_view<T> y) {
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t W = panel_width<T, Arch>;
    const bool far = asks_ahead(y);
    parallel_ranges(exec, y.rows, detail::tokens_per_unit, [&](index_t begin, index_t end) {
        for (index_t t0 = begin; t0 < end; t0 += detail::tokens_per_panel) {
            const index_t t1 = std::min(end, t0 + detail::tokens_per_panel);
            index_t p = 0;
            for (; (p + 2) * W <= y.cols; p += 2) {
                detail::add_chosen_pair<T, Arch>(b.panel(p), b.panel(p + 1), t0, t1, chosen, k, y, p * W,
                                                 far);
            }
            for (; p < b.panels(); ++p) {
                const index_t width = b.width(p);
                const auto tile = detail::chosen_table<T, Arch>::add[static_cast<std::size_t>(width / L - 1)];
                tile(b.panel(p), t0, t1, chosen, k, y, p * W, std::min(width, y.cols - p * W));
            }
        }
    });
}

/// out[t, j] = x[t] . B[chosen[t, j]], 0 where nothing is chosen.
template <class T, class Arch = simd::default_arch>
void dot_chosen_rows(executor_ref exec, std::type_identity_t<matrix_view<const T>> x, const row_t* chosen,
                     index_t k, std::type_identity_t<panel_view<const T, Arch>> b, T* out) {
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t W = panel_width<T, Arch>;
    // So many tokens that a chosen row of a panel is read several times from the first cache level; their
    // sums pass by once a panel. Measured with 8 of 64 rows, 512 tokens, 1024 columns, blocks of 16, 32, 64,
    // 128: 146, 141, 135, 135 us. Entries of a list that a token meets at a time, one sum each: 4 take 1.2
    // times the time of 8.
    constexpr index_t block = 64, entries = 8;
    const bool far = asks_ahead(x);
    parallel_ranges(exec, x.rows, block, [&](index_t begin, index_t end) {
        alignas(64) T sums[static_cast<std::size_t>(block * entries * L)];
        row_t rows[static_cast<std::size_t>(block * entries)];
        for (index_t t0 = begin; t0 < end; t0 += block) {
            const index_t t1 = std::min(end, t0 + block);
            for (index_t j = 0; j < k; j += entries) {
                const index_t n = std::min(entries, k - j);
                const auto tile = detail::chosen_table<T, Arch>::dot[static_cast<std::size_t>(n - 1)];
                const row_t* const first = chosen + t0 * k + j;
                for (index_t t = 0; t < t1 - t0; ++t) {
                    for (index_t i = 0; i < n; ++i) rows[t * n + i] = std::max<row_t>(first[t * k + i], 0);
                }
                for (index_t p = 0; p < b.panels(); ++p) {
                    tile(b.panel(p), b.width(p), t0, t1, rows, x, p * W, std::min(b.width(p), x.cols - p * W),
                         far, sums);
                }
                T* const to = out + t0 * k + j;
                const T* sum = sums;
                for (index_t t = 0; t < t1 - t0; ++t) {
                    for (index_t i = 0; i < n; ++i, sum += L) {
                        const T dot = simd::reduce_add(simd::load<T, Arch>(sum));
                        to[t * k + i] = first[t * k + i] < 0 ? T(0) : dot;
                    }
                }
            }
        }
    });
}

/// dB[i] (+)= sum over the tokens that chose i of weight[t, j] y[t]; rows that nobody chose become zero
/// unless `accumulate`. Panels are split over threads, so that sums have one order.
template <class T, class Arch = simd::default_arch>
void chosen_rows_gradient(executor_ref exec, const row_t* chosen, const T* weight, index_t k,
                          std::type_identity_t<matrix_view<const T>> y, panel_view<T, Arch> db,
                          bool accumulate) {
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t W = panel_width<T, Arch>;
    exec.run(db.panels(), [&](index_t p) {
        const index_t width = db.width(p);
        T* panel = db.panel(p);
        if (!accumulate) std::fill_n(panel, db.rows * width, T(0));
        const auto tile = detail::chosen_table<T, Arch>::add_to[static_cast<std::size_t>(width / L - 1)];
        for (index_t t = 0; t < y.rows; ++t) {
            tile(panel, width, chosen + t * k, weight + t * k, k, y.row(t) + p * W,
                 std::min(width, y.cols - p * W));
        }
    });
}

}  // namespace mox::inline MOX_ABI::kernel
