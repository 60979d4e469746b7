#pragma once

// Work on a few rows of a matrix that each token chose for itself: the ranks of a gated adapter. The rows are
// those of a panel matrix (ranks x width); a token's list has `k` of them, -1 for none.

#include <mox/kernel/elementwise.hpp>
#include <mox/kernel/panels.hpp>
#include <mox/simd/batch.hpp>

namespace mox::inline MOX_ABI::kernel {

namespace detail {

// Tokens that pass one panel together: its chosen rows then come from the first cache level.
inline constexpr index_t tokens_per_panel = 64;

// y[0 .. V registers) += sum_j weight[j] panel[chosen[j]][...], `valid` columns of y.
template <class T, class Arch, int V>
MOX_NOINLINE void add_chosen(const T* panel, index_t width, const row_t* chosen, const T* weight, index_t k,
                             T* y, index_t valid) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    batch acc[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
        acc[v] = valid >= (v + 1) * L ? simd::load<T, Arch>(y + v * L)
                                      : simd::load_upto<T, Arch>(y + v * L, valid - v * L);
    }
    for (index_t j = 0; j < k; ++j) {
        if (chosen[j] < 0) continue;
        const T* row = panel + chosen[j] * width;
        const batch w(weight[j]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[v] = simd::fma(w, simd::load<T, Arch>(row + v * L), acc[v]);
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
        if (valid >= (v + 1) * L) {
            simd::store(y + v * L, acc[v]);
        } else {
            simd::store_upto(y + v * L, acc[v], valid - v * L);
        }
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

// out[j] = y . row chosen[j] for J lists entries.
template <class T, class Arch, int J>
MOX_NOINLINE void dot_chosen(panel_view<const T, Arch> b, const row_t* chosen, const T* y, index_t cols,
                             T* out) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    batch acc[J];
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) acc[j] = batch(T(0));
    for (index_t p = 0, n = 0; p < b.panels(); ++p) {
        const index_t width = b.width(p);
        const T* panel = b.panel(p);
        const T* row[J];
#pragma GCC unroll 8
        for (int j = 0; j < J; ++j) row[j] = panel + (chosen[j] < 0 ? 0 : chosen[j]) * width;
        for (index_t i = 0; i < width; i += L, n += L) {
            const batch a =
                n + L <= cols ? simd::load<T, Arch>(y + n) : simd::load_upto<T, Arch>(y + n, cols - n);
#pragma GCC unroll 8
            for (int j = 0; j < J; ++j) acc[j] = simd::fma(a, simd::load<T, Arch>(row[j] + i), acc[j]);
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) out[j] = chosen[j] < 0 ? T(0) : simd::reduce_add(acc[j]);
}

template <class T, class Arch>
struct chosen_table {
    static constexpr int vectors = static_cast<int>(panel_vectors<Arch>);
    using add_fn = void (*)(const T*, index_t, const row_t*, const T*, index_t, T*, index_t);
    using add_to_fn = void (*)(T*, index_t, const row_t*, const T*, index_t, const T*, index_t);
    using dot_fn = void (*)(panel_view<const T, Arch>, const row_t*, const T*, index_t, T*);

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

/// y[t] += sum_j weight[t, j] B[chosen[t, j]].
template <class T, class Arch = simd::default_arch>
void add_chosen_rows(executor_ref exec, const row_t* chosen, const T* weight, index_t k,
                     std::type_identity_t<panel_view<const T, Arch>> b, matrix_view<T> y) {
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t W = panel_width<T, Arch>;
    parallel_ranges(exec, y.rows, detail::tokens_per_panel, [&](index_t begin, index_t end) {
        for (index_t t0 = begin; t0 < end; t0 += detail::tokens_per_panel) {
            const index_t t1 = std::min(end, t0 + detail::tokens_per_panel);
            for (index_t p = 0; p < b.panels(); ++p) {
                const index_t width = b.width(p);
                const auto tile = detail::chosen_table<T, Arch>::add[static_cast<std::size_t>(width / L - 1)];
                for (index_t t = t0; t < t1; ++t) {
                    tile(b.panel(p), width, chosen + t * k, weight + t * k, k, y.row(t) + p * W,
                         std::min(width, y.cols - p * W));
                }
            }
        }
    });
}

/// out[t, j] = x[t] . B[chosen[t, j]], 0 where nothing is chosen.
template <class T, class Arch = simd::default_arch>
void dot_chosen_rows(executor_ref exec, std::type_identity_t<matrix_view<const T>> x, const row_t* chosen,
                     index_t k, std::type_identity_t<panel_view<const T, Arch>> b, T* out) {
    parallel_ranges(exec, x.rows, 16, [&](index_t begin, index_t end) {
        for (index_t t = begin; t < end; ++t) {
            for (index_t j = 0; j < k; j += 8) {
                const index_t n = std::min<index_t>(8, k - j);
                detail::chosen_table<T, Arch>::dot[static_cast<std::size_t>(n - 1)](
                    b, chosen + t * k + j, x.row(t), x.cols, out + t * k + j);
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
