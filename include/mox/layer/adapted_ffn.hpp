#pragma once

#include <mox/kernel/activation.hpp>
#include <mox/layer/adapt.hpp>
#include <mox/layer/linear.hpp>

namespace mox::inline MOX_ABI {

/// The gated feed-forward network of mox::gated_ffn with its two maps wrapped, for adapters on each of them:
/// adapted_ffn<D, H, activation::silu, with_lora<r8>> takes over the tensors of swiglu<D, H>
/// (mox::copy_matching). The first map has the gate columns and behind them the up columns.
template <index_t D, index_t H, class Act, class Adapter>
struct adapted_ffn {
    static_assert(D > 0 && H > 0, "mox::adapted_ffn: both widths must be positive");

    static constexpr std::string_view name = "adapted_ffn";
    static constexpr index_t in = D;
    static constexpr index_t out = D;
    using first_map = typename detail::around_fused<Adapter, linear<D, 2 * H>, H, H>::type;
    using second_map = typename Adapter::template around<linear<H, D, bias::none, true>>;
    using children = leaves<first_map, second_map>;
    static constexpr std::array<std::string_view, 2> child_names{"gate_up", "down"};

    static constexpr double flops(double context) {
        return first_map::flops(context) + second_map::flops(context);
    }

    template <class T>
    static void forward(context<T>& ctx, param_ref<adapted_ffn, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        const matrix_view<T> pre = ctx.activation(x.rows, 2 * H), hidden = ctx.activation(x.rows, H);
        first_map::template forward<T>(ctx, w.template child<0>(), x, pre);
        for_each_unit(ctx, x.rows, [&](index_t t, index_t j, index_t n) {
            const T* from = pre.row(t);
            const auto a = simd::load_upto<T, simd::default_arch>(from + j, n);
            const auto u = simd::load_upto<T, simd::default_arch>(from + H + j, n);
            simd::store_upto(hidden.row(t) + j, Act::value(a) * u, n);
        });
        second_map::template forward<T>(ctx, w.template child<1>(), hidden, y);
        ctx.save(pre);
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<adapted_ffn, const T> w, param_ref<adapted_ffn, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto pre = ctx.template restore<matrix_view<T>>();
        const arena_scope scope(*ctx.scratch);
        const matrix_view<T> dhidden = ctx.temporary(dy.rows, H), dpre = ctx.temporary(dy.rows, 2 * H);
        const bool wanted = ctx.input_gradient;
        ctx.input_gradient = true;
        second_map::template backward<T>(ctx, w.template child<1>(), g.template child<1>(), dy, dhidden);
        ctx.input_gradient = wanted;
        for_each_unit(ctx, dy.rows, [&](index_t t, index_t j, index_t n) {
            const T* from = pre.row(t);
            T* to = dpre.row(t);
            const auto a = simd::load_upto<T, simd::default_arch>(from + j, n);
            const auto u = simd::load_upto<T, simd::default_arch>(from + H + j, n);
            const auto d = simd::load_upto<T, simd::default_arch>(dhidden.row(t) + j, n);
            simd::store_upto(to + j, d * u * Act::derivative(a), n);
            simd::store_upto(to + H + j, d * Act::value(a), n);
        });
        first_map::template backward<T>(ctx, w.template child<0>(), g.template child<0>(), dpre, dx);
    }

private:
    // body(row, first unit, units of one register)
    template <class T, class Body>
    static void for_each_unit(context<T>& ctx, index_t rows, Body&& body) {
        parallel_ranges(ctx.exec, rows, 32, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                for (index_t j = 0; j < H; j += simd::lanes<T>) body(t, j, std::min(simd::lanes<T>, H - j));
            }
        });
    }
};

}  // namespace mox::inline MOX_ABI
