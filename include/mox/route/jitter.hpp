#pragma once

#include <array>

#include <mox/core/parameter.hpp>
#include <mox/core/random.hpp>
#include <mox/kernel/narrow.hpp>
#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI::route {

/// A linear scorer whose input is multiplied, value by value, with random numbers between 1 - J and 1 + J in
/// training (Switch, arXiv 2101.03961; an option of MixLoRA, arXiv 2404.15159). What the experts read stays
/// as it is. Outside training it is linear_scorer.
template <coefficient J>
struct jitter {
    static_assert(J.value >= 0 && J.value <= 1,
                  "mox::route::jitter: the width of the noise must lie in [0, 1]");
    using policy = scorer_policy;
    static constexpr std::string_view name = "router";
    static constexpr bool draws = true;

    template <index_t In, index_t Outputs>
    static constexpr std::array parameters{
        parameter{.name = name, .form = storage::panels, .rows = In, .cols = Outputs, .init = fill::small}};

    template <class T>
    struct record {
        matrix_view<const T> x;  ///< with noise
        std::uint64_t stream = 0;
        bool noisy = false;
    };

    template <index_t In, index_t Outputs, class T, class Context>
    static record<T> forward(Context& ctx, tensor_list<const T> w, matrix_view<const T> x,
                             matrix_view<T> logits) {
        record<T> r{x, ctx.step << 20 | static_cast<std::uint64_t>(ctx.next_draw++), ctx.training()};
        if (r.noisy) {
            const matrix_view<T> noisy = ctx.activation(x.rows, In);
            multiply<T>(ctx, r, x, noisy, false);
            r.x = noisy;
        }
        kernel::narrow_dense<T>(ctx.exec, panels<In, Outputs>(w[0]), r.x, logits);
        return r;
    }

    template <index_t In, index_t Outputs, class T, class Context>
    static void backward(Context& ctx, tensor_list<const T> w, tensor_list<T> g, matrix_view<const T>,
                         const record<T>& r, matrix_view<const T> dlogits, matrix_view<T> dx) {
        if (g[0]) {
            kernel::dense_weight_gradient<T>(ctx.exec, r.x, dlogits, panels<In, Outputs>(g[0]),
                                             ctx.accumulate);
        }
        if (!ctx.input_gradient) return;
        if (!r.noisy) {
            kernel::dense_transposed<T>(ctx.exec, panels<In, Outputs>(w[0]), dlogits, dx, true);
            return;
        }
        const arena_scope scope(*ctx.scratch);
        const matrix_view<T> noisy = ctx.temporary(dlogits.rows, In);
        kernel::dense_transposed<T>(ctx.exec, panels<In, Outputs>(w[0]), dlogits, noisy, false);
        multiply<T>(ctx, r, noisy, dx, true);
    }

private:
    template <index_t In, index_t Outputs, class T>
    static constexpr kernel::panel_view<T> panels(T* p) {
        return {p, In, kernel::panel_layout<std::remove_const_t<T>>::padded(Outputs)};
    }

    // to (+)= from * noise. The noise is not kept but drawn again.
    template <class T, class Context>
    static void multiply(Context& ctx, const record<T>& r, std::type_identity_t<matrix_view<const T>> from,
                         matrix_view<T> to, bool accumulate) {
        const random_stream numbers(ctx.seed, r.stream);
        parallel_ranges(ctx.exec, from.rows, 16, [&](index_t begin, index_t end) {
            for (index_t t = begin; t < end; ++t) {
                for (index_t j = 0; j < from.cols; ++j) {
                    const double u = numbers.uniform(static_cast<std::uint64_t>(t * from.cols + j));
                    const T v = static_cast<T>(1 + J.value * (2 * u - 1)) * from(t, j);
                    to(t, j) = accumulate ? to(t, j) + v : v;
                }
            }
        });
    }
};

}  // namespace mox::inline MOX_ABI::route
