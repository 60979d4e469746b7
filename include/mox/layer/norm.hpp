#pragma once

#include <mox/core/coefficient.hpp>
#include <mox/kernel/norm.hpp>
#include <mox/kernel/norm_backward.hpp>
#include <mox/layer/context.hpp>

namespace mox::inline MOX_ABI {

/// y = gain * x / sqrt(mean(x^2) + 1e-6) (Root Mean Square Layer Normalization, arXiv 1910.07467).
template <index_t Width>
struct rms_norm {
    static_assert(Width > 0, "mox::rms_norm: the width must be positive");
    static constexpr std::string_view name = "rms_norm";
    static constexpr index_t in = Width;
    static constexpr index_t out = Width;
    static constexpr double epsilon = 1e-6;
    static constexpr std::array parameters{
        parameter{.name = "gain", .cols = Width, .init = fill::ones, .decays = false}};
    static constexpr double flops(double /*context*/) { return 4.0 * Width; }

    template <class T>
    struct record {
        matrix_view<const T> x;
        const T* rho;
    };

    template <class T>
    static void forward(context<T>& ctx, param_ref<rms_norm, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        T* rho = ctx.saved->template take<T>(x.rows);
        kernel::rms_norm<T>(ctx.exec, x, w[0], static_cast<T>(epsilon), y, rho);
        ctx.save(record<T>{x, rho});
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<rms_norm, const T> w, param_ref<rms_norm, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto r = ctx.template restore<record<T>>();
        kernel::rms_norm_backward<T>(ctx.exec, r.x, w[0], r.rho, dy,
                                     ctx.input_gradient ? dx : matrix_view<T>{}, g[0], ctx.accumulate);
    }
};

/// y = gain * (x - mean) / sqrt(var + epsilon) + shift (Layer Normalization, arXiv 1607.06450).
template <index_t Width, coefficient Epsilon = coefficient{1e-5}>
struct layer_norm {
    static_assert(Width > 0, "mox::layer_norm: the width must be positive");
    static constexpr std::string_view name = "layer_norm";
    static constexpr index_t in = Width;
    static constexpr index_t out = Width;
    static constexpr std::array parameters{
        parameter{.name = "gain", .cols = Width, .init = fill::ones, .decays = false},
        parameter{.name = "shift", .cols = Width, .init = fill::zeros, .decays = false}};
    static constexpr double flops(double /*context*/) { return 6.0 * Width; }

    template <class T>
    struct record {
        matrix_view<const T> x;
        const T* statistics;
    };

    template <class T>
    static void forward(context<T>& ctx, param_ref<layer_norm, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        T* statistics = ctx.saved->template take<T>(2 * x.rows);
        kernel::layer_norm<T>(ctx.exec, x, w[0], w[1], static_cast<T>(Epsilon.value), y, statistics);
        ctx.save(record<T>{x, statistics});
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<layer_norm, const T> w, param_ref<layer_norm, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto r = ctx.template restore<record<T>>();
        kernel::layer_norm_backward<T>(ctx.exec, r.x, w[0], r.statistics, dy,
                                       ctx.input_gradient ? dx : matrix_view<T>{}, g[0], g[1],
                                       ctx.accumulate);
    }
};

}  // namespace mox::inline MOX_ABI
