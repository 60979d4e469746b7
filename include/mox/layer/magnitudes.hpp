#pragma once

#include <algorithm>
#include <limits>

#include <mox/kernel/column_norms.hpp>
#include <mox/layer/low_rank.hpp>

namespace mox::inline MOX_ABI::detail {

/// Learned magnitudes of the outputs of adapted maps (DoRA, arXiv 2402.09353), for `experts` adapters of one
/// map at once: row o of expert e is multiplied by m_eo / |W_o + s A_e' B_eo|, by 1 while that norm is
/// zero. Norms are constants in backward (section 4.3). Experts without rows are left out of everything.
template <index_t In, index_t Out, adapter_spec Spec>
struct magnitudes {
    static constexpr index_t rank = Spec.rank;

    /// Of `experts` adapters; mox::start_dora gives them their values.
    static constexpr parameter tensor(std::string_view name, index_t experts) {
        return {.name = name,
                .form = experts == 1 ? storage::vector : storage::rows,
                .rows = experts,
                .cols = Out,
                .init = fill::ones,
                .decays = false,
                .trained = !Spec.frozen};
    }

    /// experts x Out each; null without magnitudes.
    template <class T>
    struct record {
        const T* norm = nullptr;    ///< infinity for zero
        const T* factor = nullptr;  ///< m / norm

        const T* factors(index_t expert) const noexcept { return factor + expert * Out; }
    };

    /// `map`: of the base, its columns from `first` on; a, b, m: of all experts.
    template <class T>
    static record<T> measure(context<T>& ctx, kernel::group_view groups, kernel::panel_view<const T> map,
                             index_t first, const T* a, const T* b, const T* m) {
        using layout = kernel::panel_layout<T>;
        T* const norm = ctx.saved->template take<T>(groups.count * Out);
        T* const factor = ctx.saved->template take<T>(groups.count * Out);
        const kernel::panel_view<const T> down(a, groups.count * rank, layout::padded(In)),
            up(b, groups.count * rank, layout::padded(Out));
        const arena_scope scope(*ctx.scratch);
        // s A' input by input, as products read rows.
        const matrix_view<T> turned = ctx.temporary(groups.count * In, rank);
        ctx.exec.run(groups.count * down.panels(), [&](index_t unit) {
            const index_t e = unit / down.panels(), p = unit % down.panels(), i0 = p * layout::width;
            if (groups.begin(e) == groups.end(e)) return;
            for (index_t r = 0; r < rank; ++r) {
                const T* from = down.panel(p) + (e * rank + r) * down.width(p);
                for (index_t i = i0; i < std::min(i0 + layout::width, In); ++i)
                    turned(e * In + i, r) = static_cast<T>(Spec.scale()) * from[i - i0];
            }
        });
        ctx.exec.run(groups.count * up.panels(), [&](index_t unit) {
            const index_t e = unit / up.panels(), p = unit % up.panels();
            if (groups.begin(e) == groups.end(e)) return;
            kernel::column_norms<T>(map, first, {turned.row(e * In), In, rank, turned.stride},
                                    up.row_range(e * rank, (e + 1) * rank), Out, p, p + 1, norm + e * Out);
            for (index_t o = e * Out + p * layout::width;
                 o < e * Out + std::min((p + 1) * layout::width, Out); ++o) {
                const bool none = norm[o] == T(0);
                factor[o] = none ? T(1) : m[o] / norm[o];
                if (none) norm[o] = std::numeric_limits<T>::infinity();  // the magnitude learns nothing
            }
        });
        return {norm, factor};
    }

    /// to[slot] = factor from[slot].
    template <class T>
    static void apply(context<T>& ctx, kernel::group_view groups, const record<T>& r,
                      kernel::row_source<const T> from, matrix_view<T> to) {
        kernel::for_each_unit(ctx.exec, groups, 1,
                              [&](index_t e, index_t begin, index_t end, index_t, index_t) {
                                  const T* MOX_RESTRICT f = r.factors(e);
                                  for (index_t s = begin; s < end; ++s) {
                                      const T* x = from(s);
                                      T* y = to.row(s);
                                      for (index_t o = 0; o < Out; ++o) y[o] = f[o] * x[o];
                                  }
                              });
    }

    /// dm (+)= the sum over the slots of dout inner / norm (unless dm is null), then dout becomes the
    /// gradient of inner.
    template <class T>
    static void backward(context<T>& ctx, kernel::group_view groups, const record<T>& r,
                         std::type_identity_t<matrix_view<const T>> inner, matrix_view<T> dout, T* dm) {
        // Columns are split over threads: each sums the slots in their order.
        parallel_ranges(
            ctx.exec, Out, 16,
            [&](index_t begin, index_t end) {
                for (index_t e = 0; e < groups.count; ++e) {
                    T* MOX_RESTRICT sum = dm ? dm + e * Out : nullptr;
                    if (sum && !ctx.accumulate) std::fill(sum + begin, sum + end, T(0));
                    const T* f = r.factors(e);
                    const T* norm = r.norm + e * Out;
                    for (index_t s = groups.begin(e); s < groups.end(e); ++s) {
                        T* MOX_RESTRICT d = dout.row(s);
                        const T* x = inner.row(s);
                        for (index_t o = begin; sum && o < end; ++o) sum[o] += d[o] * x[o] / norm[o];
                        for (index_t o = begin; o < end; ++o) d[o] *= f[o];
                    }
                }
            },
            16);
    }
};

}  // namespace mox::inline MOX_ABI::detail
