#pragma once

#include <mox/layer/linear.hpp>
#include <mox/layer/lora.hpp>
#include <mox/layer/magnitudes.hpp>

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
    using scaling = detail::magnitudes<Base::in, Base::out, Spec>;

    static constexpr std::string_view name = "dora";
    static constexpr index_t in = Base::in;
    static constexpr index_t out = Base::out;
    static constexpr index_t ranks = adapter::ranks;
    static constexpr double scale = adapter::scale;
    static constexpr bool transparent = true;

    static constexpr std::array parameters{scaling::tensor("magnitude", 1)};

    /// Norms are not counted: they cost 2 (ranks + 1) in out a call, whatever the number of tokens.
    static constexpr double flops(double context) { return adapter::flops(context) + out; }

    template <class T>
    struct record {
        matrix_view<const T> inner;  ///< base(x) + s x A' B
        typename scaling::template record<T> scales;
    };

    template <class T>
    static void forward(context<T>& ctx, param_ref<dora, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        const matrix_view<T> inner = ctx.activation(x.rows, out);
        const param_ref<adapter, const T> own = w.template child<0>();
        adapter::template forward<T>(ctx, own, x, inner);
        const row_t whole[2] = {0, static_cast<row_t>(x.rows)};
        const auto base = own.template child<0>().template child<0>();
        const auto scales =
            scaling::measure(ctx, {whole, 1}, base.template panels<0>(), 0, own[0], own[1], w[0]);
        scaling::apply(ctx, {whole, 1}, scales, kernel::row_source<const T>(inner), y);
        ctx.save(record<T>{inner, scales});
    }

    template <class T>
    static void backward(context<T>& ctx, param_ref<dora, const T> w, param_ref<dora, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto r = ctx.template restore<record<T>>();
        const arena_scope scope(*ctx.scratch);
        const matrix_view<T> dinner = ctx.temporary(dy.rows, out);
        kernel::copy_rows<T>(ctx.exec, dy, dinner);
        const row_t whole[2] = {0, static_cast<row_t>(dy.rows)};
        scaling::backward(ctx, {whole, 1}, r.scales, r.inner, dinner, g[0]);
        adapter::template backward<T>(ctx, w.template child<0>(), g.template child<0>(), dinner, dx);
    }
};

/// Wraps the maps of a layer: attention<spec, mask::causal, with_dora<r8>>.
template <adapter_spec Spec>
struct with_dora {
    template <class L>
    using around = dora<L, Spec>;
};

}  // namespace mox::inline MOX_ABI
