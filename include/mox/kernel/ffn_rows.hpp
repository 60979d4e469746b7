#pragma once

// The element-wise half of a feed-forward expert, fused so that each value is touched once: activation on
// the product's tile, and in backward the gate gradient, the activation's derivative and the scaled hidden
// row in one pass.

#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/elementwise.hpp>
#include <mox/kernel/panels.hpp>
#include <mox/kernel/streaming.hpp>
#include <mox/simd/batch.hpp>

namespace mox::inline MOX_ABI::kernel {

/// One tile row of a gated product: `width` columns, gate units first, up units behind them. Writes
/// hidden = act(gate) * up; past the caches (simd/stream.hpp) where `Stream` says so.
template <class T, class Arch, class Act, bool Stream = false>
MOX_INLINE void gated_tile_row(const T* tile, index_t width, T* hidden) {
    const index_t units = width / 2;
    for (index_t j = 0; j < units; j += simd::lanes<T, Arch>) {
        const auto a = simd::load<T, Arch>(tile + j);
        const auto u = simd::load<T, Arch>(tile + units + j);
        detail::put<Stream>(hidden + j, Act::value(a) * u, simd::lanes<T, Arch>);
    }
}

namespace detail {

template <class T, class Arch, class Act, bool Stream>
MOX_NOINLINE void gated_rows_of(matrix_view<const T> pre, index_t begin, index_t end, matrix_view<T> hidden) {
    constexpr index_t L = simd::lanes<T, Arch>, half = panel_layout<T, Arch>::width / 2;
    for (index_t t = begin; t < end; ++t) {
        const T* from = pre.row(t);
        T* to = hidden.row(t);
        index_t base = 0;
        for (; base + half <= hidden.cols; base += half) {
            gated_tile_row<T, Arch, Act, Stream>(from + 2 * base, 2 * half, to + base);
        }
        // The last panel holds whole registers, the result need not.
        const index_t units = round_up(hidden.cols - base, L);
        for (index_t j = 0; base + j < hidden.cols; j += L) {
            const auto a = simd::load<T, Arch>(from + 2 * base + j);
            const auto u = simd::load<T, Arch>(from + 2 * base + units + j);
            put<Stream>(to + base + j, Act::value(a) * u, std::min(L, hidden.cols - base - j));
        }
    }
}

}  // namespace detail

/// hidden = act(gate) * up for rows of pre-activations in panel order, as a gated product leaves them for
/// backward: 2 * hidden.cols columns, up to a register more where the last panel ends.
template <class T, class Act, class Arch = simd::default_arch>
void gated_rows(executor_ref exec, std::type_identity_t<matrix_view<const T>> pre, matrix_view<T> hidden) {
    const bool past = streams<T, Arch>(hidden);
    parallel_ranges(exec, hidden.rows, rows_per_unit, [&](index_t begin, index_t end) {
        detail::with_stores(past, [&](auto stream) {
            detail::gated_rows_of<T, Arch, Act, decltype(stream)::value>(pre, begin, end, hidden);
        });
    });
}

namespace detail {

// body(place of gate units, of up units, first unit, how many are valid) for a row of pre-activations in
// panel order, a register at a time.
template <class T, class Arch, class Body>
MOX_INLINE void for_each_gated(index_t hidden, Body&& body) {
    constexpr index_t L = simd::lanes<T, Arch>, half = panel_layout<T, Arch>::width / 2;
    for (index_t base = 0; base < hidden; base += half) {
        const index_t units = std::min(half, round_up(hidden - base, L));
        for (index_t j = 0; j < units; j += L)
            body(2 * base + j, 2 * base + units + j, base + j, std::min(L, hidden - base - j));
    }
}

}  // namespace detail

/// Adds gate and up units, `hidden` of each, to a row of pre-activations in panel order.
template <class T, class Arch>
void add_gated_row(const T* gate, const T* up, index_t hidden, T* pre) {
    detail::for_each_gated<T, Arch>(hidden, [&](index_t g, index_t u, index_t unit, index_t count) {
        simd::store(pre + g, simd::load<T, Arch>(pre + g) + simd::load_upto<T, Arch>(gate + unit, count));
        simd::store(pre + u, simd::load<T, Arch>(pre + u) + simd::load_upto<T, Arch>(up + unit, count));
    });
}

/// The gate and up units of such a row apart.
template <class T, class Arch>
void split_gated_row(const T* pre, index_t hidden, T* gate, T* up) {
    detail::for_each_gated<T, Arch>(hidden, [&](index_t g, index_t u, index_t unit, index_t count) {
        simd::store_upto(gate + unit, simd::load<T, Arch>(pre + g), count);
        simd::store_upto(up + unit, simd::load<T, Arch>(pre + u), count);
    });
}

/// One tile row of a plain product: hidden = act(tile).
template <class T, class Arch, class Act>
MOX_INLINE void plain_tile_row(const T* tile, index_t width, T* hidden) {
    for (index_t j = 0; j < width; j += simd::lanes<T, Arch>) {
        simd::store(hidden + j, Act::value(simd::load<T, Arch>(tile + j)));
    }
}

/// Backward of one slot of a gated expert with weight g.
/// pre: in, gate and up pre-activations in panel order; out, their gradients. dh: in, the gradient of the
/// hidden row for weight 1 (`hidden` valid values); out, g * hidden row, the left factor of dW2.
/// Returns the gradient of the weight, sum dh * h: the expert's output is not needed.
template <class T, class Arch, class Act>
T gated_backward_row(T* pre, T* dh, index_t hidden, T g) {
    using batch = simd::batch<T, Arch>;
    using layout = panel_layout<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    constexpr index_t half = layout::width / 2;
    const batch weight(g);
    batch dot(T(0));
    for (index_t base = 0; base < hidden; base += half) {
        const index_t units = std::min(half, round_up(hidden - base, L));
        T* gate = pre + 2 * base;
        T* up = gate + units;
        for (index_t j = 0; j < units; j += L) {
            const index_t valid = std::min(L, hidden - base - j);
            const batch a = simd::load<T, Arch>(gate + j);
            const batch u = simd::load<T, Arch>(up + j);
            const batch d = simd::load_upto<T, Arch>(dh + base + j, valid);
            const batch act = Act::value(a);
            const batch h = act * u;
            dot = simd::fma(d, h, dot);
            const batch ds = d * weight;
            simd::store(gate + j, ds * u * Act::derivative(a));
            simd::store(up + j, ds * act);
            simd::store_upto(dh + base + j, h * weight, valid);
        }
    }
    return simd::reduce_add(dot);
}

/// The same for a plain expert: pre holds the pre-activations of `hidden` units and gets their gradients.
template <class T, class Arch, class Act>
T plain_backward_row(T* pre, T* dh, index_t hidden, T g) {
    using batch = simd::batch<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    const batch weight(g);
    batch dot(T(0));
    for (index_t j = 0; j < hidden; j += L) {
        const index_t valid = std::min(L, hidden - j);
        const batch a = simd::load<T, Arch>(pre + j);
        const batch d = simd::load_upto<T, Arch>(dh + j, valid);
        const batch h = Act::value(a);
        dot = simd::fma(d, h, dot);
        simd::store(pre + j, d * weight * Act::derivative(a));
        simd::store_upto(dh + j, h * weight, valid);
    }
    return simd::reduce_add(dot);
}

}  // namespace mox::inline MOX_ABI::kernel
