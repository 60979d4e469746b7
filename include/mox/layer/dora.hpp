#pragma once

#include <cmath>

#include <mox/layer/linear.hpp>
#include <mox/layer/lora.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

template <class L>
inline constexpr bool is_plain_linear = false;
template <index_t In, index_t Out, bias Bias, bool Residual>
inline constexpr bool is_plain_linear<linear<In, Out, Bias, Residual>> = true;

}  // namespace detail

/// A low-rank adapter whose outputs have learned magnitudes (DoRA, Weight-Decomposed Low-Rank Adaptation,
/// arXiv 2402.09353; an option of MixLoRA's code): y = m / |W + s A' B| * (base(x) + s x A' B) with one
/// magnitude and one norm per output, over its inputs. The norms are constants in backward, as in the paper's
/// section 4.3. A bias of the base is scaled with the rest. mox::start_dora (transform/dora.hpp) sets the
/// magnitudes to the norms, after which the layer is its base.
template <class Base, adapter_spec Spec>
struct dora {
    static_assert(detail::is_plain_linear<Base>, "mox::dora: the base must be mox::linear with weights of "
                                                 "full precision, whose norms it needs");
    static_assert(Spec.kept_ranks == 0, "mox::dora: kept_ranks is for mox::lora; dora has none");
    using adapter = lora<Base, Spec>;
    using children = leaves<adapter>;

    static constexpr std::string_view name = "dora";
    static constexpr index_t in = Base::in;
    static constexpr index_t out = Base::out;
    static constexpr index_t ranks = adapter::ranks;
    static constexpr double scale = adapter::scale;
    static constexpr bool transparent = true;
    static constexpr bool chooses_update = true;  ///< mox::merge refuses

    static constexpr std::array parameters{
        parameter{.name = "magnitude", .cols = out, .init = fill::ones, .decays = false}};

    /// Norms are not counted: they cost 2 (ranks + 1) in out a call, whatever the number of tokens.
    static constexpr double flops(double context) { return adapter::flops(context) + out; }

    template <class T>
    struct record {
        matrix_view<const T> inner;  ///< base(x) + s x A' B
        const T* norm;
    };

    template <class T>
    static void forward(context<T>& ctx, param_ref<dora, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        const matrix_view<T> inner = ctx.activation(x.rows, out);
        adapter::template forward<T>(ctx, w.template child<0>(), x, inner);
        T* norm = ctx.saved->template take<T>(out);
        norms(ctx, w, norm);
        scaled(ctx, w[0], norm, inner, y);
        ctx.save(record<T>{inner, norm});
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<dora, const T> w, param_ref<dora, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto r = ctx.template restore<record<T>>();
        const arena_scope scope(*ctx.scratch);
        if (g[0]) {
            // Columns are split over threads: each sums its tokens in their order.
            parallel_ranges(
                ctx.exec, out, 16,
                [&](index_t begin, index_t end) {
                    if (!ctx.accumulate) std::fill(g[0] + begin, g[0] + end, T(0));
                    for (index_t t = 0; t < dy.rows; ++t) {
                        for (index_t o = begin; o < end; ++o) g[0][o] += dy(t, o) * r.inner(t, o) / r.norm[o];
                    }
                },
                16);
        }
        const matrix_view<T> dinner = ctx.temporary(dy.rows, out);
        scaled(ctx, w[0], r.norm, dy, dinner);
        adapter::template backward<T>(ctx, w.template child<0>(), g.template child<0>(), dinner, dx);
    }

    /// norm_o = |W_o + s sum_r A_r B_ro|, column o of the adapted map.
    template <class T>
    static void norms(context<T>& ctx, param_ref<dora, const T> w, T* norm) {
        const param_ref<adapter, const T> own = w.template child<0>();
        const kernel::panel_view<const T> weight =
            own.template child<0>().template child<0>().template panels<0>();
        using columns = kernel::panel_layout<T>;
        parallel_ranges(
            ctx.exec, out, 16,
            [&](index_t begin, index_t end) {
                std::fill(norm + begin, norm + end, T(0));
                for (index_t i = 0; i < in; ++i) {
                    for (index_t o = begin; o < end; ++o) {
                        T v = 0;
                        for (index_t r = 0; r < Spec.rank; ++r) {
                            v += own[0][columns::offset(Spec.rank, columns::padded(in), r, i)] *
                                 own[1][columns::offset(Spec.rank, columns::padded(out), r, o)];
                        }
                        v = weight.data[columns::offset(in, columns::padded(out), i, o)] +
                            static_cast<T>(scale) * v;
                        norm[o] += v * v;
                    }
                }
                for (index_t o = begin; o < end; ++o) norm[o] = std::sqrt(norm[o]);
            },
            16);
    }

private:
    template <class T>
    static void scaled(context<T>& ctx, const T* magnitude, const T* norm,
                       std::type_identity_t<matrix_view<const T>> from, matrix_view<T> to) {
        parallel_ranges(ctx.exec, from.rows, 64, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                for (index_t o = 0; o < out; ++o) to(t, o) = magnitude[o] / norm[o] * from(t, o);
            }
        });
    }
};

/// Wraps the maps of a layer: attention<spec, mask::causal, with_dora<r8>>.
template <adapter_spec Spec>
struct with_dora {
    template <class L>
    using around = dora<L, Spec>;
};

}  // namespace mox::inline MOX_ABI
