#pragma once

// Gradients of RMSNorm and LayerNorm. Those of gain and shift sum over tokens, in ascending order for each
// column: the same bits for any number of threads.

#include <algorithm>

#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/elementwise.hpp>
#include <mox/kernel/streaming.hpp>

namespace mox::inline MOX_ABI::kernel {

namespace detail {

// Two policies say what differs. value(): the normed value of a register of x. Sums over a row: `products` of
// u and it, and where there is a mean, of u alone.
template <class T, class Arch>
struct rms_row {
    static constexpr bool centred = false;
    using batch = simd::batch<T, Arch>;
    T rho;
    rms_row(const T* saved, index_t t) : rho(saved[t]) {}
    MOX_INLINE batch value(const batch& x, index_t) const { return x * batch(rho); }
};

template <class T, class Arch>
struct layer_row {
    static constexpr bool centred = true;
    using batch = simd::batch<T, Arch>;
    T mean, rho;
    layer_row(const T* saved, index_t t) : mean(saved[2 * t]), rho(saved[2 * t + 1]) {}
    MOX_INLINE batch value(const batch& x, index_t n) const {
        return (x - first_lanes<T, Arch>(mean, n)) * batch(rho);
    }
};

template <class T>
struct norm_gradients {
    matrix_view<const T> x, dy;
    const T* gain;
    const T* saved;
    matrix_view<T> dx;
    T* dgain;
    T* dshift;  // not read where there is no shift
};

// dgain += dy n and dshift += dy for n values of a row.
template <class Row, class T, class Arch>
MOX_INLINE void add_gain(const norm_gradients<T>& g, index_t i, index_t n, const simd::batch<T, Arch>& dy,
                         const simd::batch<T, Arch>& value) {
    simd::store_upto(g.dgain + i, simd::fma(dy, value, simd::load_upto<T, Arch>(g.dgain + i, n)), n);
    if constexpr (Row::centred)
        simd::store_upto(g.dshift + i, simd::load_upto<T, Arch>(g.dshift + i, n) + dy, n);
}

// dx of rows [begin, end), and with Gain the sums over them: the rows are in the first cache for both. One
// sum goes with the pass that reads (measured: 0.95 instead of 0.83 of a copy), two with the pass that writes
// (0.86 instead of 0.66).
template <class T, class Arch, class Row, bool Stream, bool Gain>
MOX_NOINLINE void norm_backward_rows(norm_gradients<T> g, index_t begin, index_t end) {
    using batch = simd::batch<T, Arch>;
    const index_t size = g.x.cols;
    const T width = static_cast<T>(size);
    for (index_t t = begin; t < end; ++t) {
        const T* x = g.x.row(t);
        const T* dy = g.dy.row(t);
        const Row row(g.saved, t);
        four_sums<T, Arch> products, sums;
        for_each_of_four<T, Arch>(size, [&](int k, index_t i, index_t n) {
            const batch d = simd::load_upto<T, Arch>(dy + i, n);
            const batch value = row.value(simd::load_upto<T, Arch>(x + i, n), n);
            const batch u = d * simd::load_upto<T, Arch>(g.gain + i, n);
            products.part[k] = simd::fma(u, value, products.part[k]);
            if constexpr (Row::centred) sums.part[k] = sums.part[k] + u;
            if constexpr (Gain && !Row::centred) add_gain<Row>(g, i, n, d, value);
        });
        const batch slope(-(products.total() / width)), rho(row.rho);
        const batch mean(Row::centred ? sums.total() / width : T(0));
        T* to = g.dx.row(t);
        const T* next_x = g.x.row(t + 1);
        const T* next_dy = g.dy.row(t + 1);
        simd::for_each<T, Arch>(size, [&](index_t i, index_t n) {
            ask_for_next<Stream>(next_x + i);
            ask_for_next<Stream>(next_dy + i);
            const batch d = simd::load_upto<T, Arch>(dy + i, n);
            const batch value = row.value(simd::load_upto<T, Arch>(x + i, n), n);
            batch u = d * simd::load_upto<T, Arch>(g.gain + i, n);
            if constexpr (Row::centred) u = u - mean;
            if constexpr (Gain && Row::centred) add_gain<Row>(g, i, n, d, value);
            put<Stream>(to + i, rho * simd::fma(value, slope, u), n);
        });
    }
}

// The sums over rows [begin, end) of columns [c0, c1), rows in order.
template <class T, class Arch, class Row>
MOX_NOINLINE void norm_gain_columns(norm_gradients<T> g, index_t begin, index_t end, index_t c0, index_t c1) {
    for (index_t t = begin; t < end; ++t) {
        const T* x = g.x.row(t);
        const T* dy = g.dy.row(t);
        const Row row(g.saved, t);
        simd::for_each<T, Arch>(c1 - c0, [&](index_t i, index_t n) {
            i += c0;
            add_gain<Row>(g, i, n, simd::load_upto<T, Arch>(dy + i, n),
                          row.value(simd::load_upto<T, Arch>(x + i, n), n));
        });
    }
}

// Bytes of x and dy in a block of rows whose dx is followed by its sums: they are then still in the last
// cache, and the threads meet twice in about 100 microseconds.
inline constexpr index_t gradient_block = index_t{4} << 20;

template <class T, class Arch, class Row>
void norm_backward(executor_ref exec, norm_gradients<T> g, bool accumulate) {
    const index_t rows = g.x.rows, cols = g.x.cols;
    if (g.dgain && !accumulate) {
        std::fill_n(g.dgain, cols, T(0));
        if constexpr (Row::centred) std::fill_n(g.dshift, cols, T(0));
    }
    const bool past = g.dx.data && streams<T, Arch>(g.dx) && g.dx.data != g.x.data && g.dx.data != g.dy.data;
    const bool alone = exec.concurrency() == 1 || g.dgain == nullptr;
    const index_t block =
        alone || g.dx.data == nullptr
            ? std::max<index_t>(rows, 1)
            : std::max<index_t>(rows_per_unit,
                                gradient_block /
                                    std::max<index_t>(1, 2 * cols * static_cast<index_t>(sizeof(T))));
    for (index_t first = 0; first < rows; first += block) {
        const index_t count = std::min(block, rows - first);
        // dx comes second where it does not take the sums along: it may be written over dy.
        if (g.dgain && !(alone && g.dx.data)) {
            parallel_ranges(
                exec, cols, columns_per_unit,
                [&](index_t c0, index_t c1) {
                    norm_gain_columns<T, Arch, Row>(g, first, first + count, c0, c1);
                },
                columns_per_line);
        }
        if (g.dx.data == nullptr) continue;
        parallel_ranges(exec, count, rows_per_unit, [&](index_t begin, index_t end) {
            with_stores(past, [&](auto stream) {
                constexpr bool Stream = decltype(stream)::value;
                if (alone && g.dgain) {
                    norm_backward_rows<T, Arch, Row, Stream, true>(g, first + begin, first + end);
                } else {
                    norm_backward_rows<T, Arch, Row, Stream, false>(g, first + begin, first + end);
                }
            });
        });
    }
}

}  // namespace detail

/// With n = x rho and u = dy * gain: dx = rho (u - n mean(u n)); dgain (+)= sum_t dy n.
/// dx may be empty, and dgain null when nobody trains the gain.
template <class T, class Arch = simd::default_arch>
void rms_norm_backward(executor_ref exec, std::type_identity_t<matrix_view<const T>> x, const T* gain,
                       const T* rho, std::type_identity_t<matrix_view<const T>> dy, matrix_view<T> dx,
                       T* dgain, bool accumulate) {
    detail::norm_backward<T, Arch, detail::rms_row<T, Arch>>(exec, {x, dy, gain, rho, dx, dgain, nullptr},
                                                             accumulate);
}

/// With n = (x - mean) rho and u = dy * gain: dx = rho (u - mean(u) - n mean(u n)); dshift (+)= sum dy;
/// dgain (+)= sum dy n. dx may be empty; dgain may be null when nobody trains gain and shift.
template <class T, class Arch = simd::default_arch>
void layer_norm_backward(executor_ref exec, std::type_identity_t<matrix_view<const T>> x, const T* gain,
                         const T* statistics, std::type_identity_t<matrix_view<const T>> dy,
                         matrix_view<T> dx, T* dgain, T* dshift, bool accumulate) {
    detail::norm_backward<T, Arch, detail::layer_row<T, Arch>>(
        exec, {x, dy, gain, statistics, dx, dgain, dshift}, accumulate);
}

}  // namespace mox::inline MOX_ABI::kernel
