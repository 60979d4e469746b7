#pragma once

// Low-rank updates of the maps inside experts: factors by expert, rows in by token or by slot of a plan.

#include <mox/layer/low_rank.hpp>

namespace mox::inline MOX_ABI::detail {

/// The updates that experts add to one map. Rows go in by token or by slot, results are one row per slot of
/// the plan.
template <index_t In, index_t Out, adapter_spec Spec>
struct slot_update {
    using ranks = low_rank<In, Out, Spec>;
    static constexpr index_t rank = Spec.rank;

    /// out[slot] (+)= s in[slot] A_e' B_e; z[slot] keeps s in A'.
    template <class T>
    static void forward(context<T>& ctx, kernel::group_view groups, const T* a, const T* b,
                        kernel::row_source<const T> in, matrix_view<T> z, matrix_view<T> out,
                        bool accumulate = true) {
        project(ctx, groups, a, in, z);
        kernel::grouped_product<T>(ctx.exec, groups, kernel::row_source<const T>(z),
                                   ranks::stack(ranks::up(b, groups.count)),
                                   {kernel::row_source<T>(out), Out, nullptr, accumulate});
    }

    template <class T>
    static void project(context<T>& ctx, kernel::group_view groups, const T* a,
                        kernel::row_source<const T> in, matrix_view<T> z) {
        kernel::grouped_transposed<T>(ctx.exec, groups, in, In, ranks::stack(ranks::down(a, groups.count)),
                                      {kernel::row_source<T>(z), rank});
        ranks::scale(ctx, z);
    }

    /// dz = s dout B_e', and the gradients of both factors; `u`: what met B in forward.
    template <class T>
    static void backward(context<T>& ctx, kernel::group_view groups, const T* b, T* da, T* db,
                         kernel::row_source<const T> in, kernel::row_source<const T> u,
                         kernel::row_source<const T> dout, matrix_view<T> dz) {
        transposed(ctx, groups, b, dout, dz);
        if (da) gradients(ctx, groups, da, db, in, u, dout, dz);
    }
    template <class T>
    static void transposed(context<T>& ctx, kernel::group_view groups, const T* b,
                           kernel::row_source<const T> dout, matrix_view<T> dz) {
        kernel::grouped_transposed<T>(ctx.exec, groups, dout, Out, ranks::stack(ranks::up(b, groups.count)),
                                      {kernel::row_source<T>(dz), rank});
        ranks::scale(ctx, dz);
    }
    template <class T>
    static void gradients(context<T>& ctx, kernel::group_view groups, T* da, T* db,
                          kernel::row_source<const T> in, kernel::row_source<const T> u,
                          kernel::row_source<const T> dout, matrix_view<T> dz) {
        kernel::grouped_weight_gradient<T>(ctx.exec, groups, u, dout, Out,
                                           ranks::stack(ranks::up(db, groups.count)), ctx.accumulate);
        kernel::grouped_weight_gradient<T>(ctx.exec, groups, kernel::row_source<const T>(dz), in, In,
                                           ranks::stack(ranks::down(da, groups.count)), ctx.accumulate);
    }
};

// One draw of a layer serves all its maps; a number of the map keeps their masks apart.
inline dropout_draw dropout_of_map(dropout_draw drop, index_t map) {
    drop.stream ^= static_cast<std::uint64_t>(map) << 60;
    return drop;
}

// What the update of a map reads: `from`, or a copy of it with values dropped, in what `place` gives.
template <class T, class Place>
matrix_view<const T> dropped_rows(context<T>& ctx, const dropout_draw& drop, index_t map,
                                  std::type_identity_t<matrix_view<const T>> from, Place&& place) {
    if (!drop.active()) return from;
    const matrix_view<T> rest = place(from.rows, from.cols);
    dropout_of_map(drop, map).template apply<T>(ctx.exec, from, rest, false);
    return rest;
}
// The same, kept for backward.
template <class T>
matrix_view<const T> dropped_rows(context<T>& ctx, const dropout_draw& drop, index_t map,
                                  std::type_identity_t<matrix_view<const T>> from) {
    return dropped_rows<T>(ctx, drop, map, from,
                           [&](index_t rows, index_t cols) { return ctx.activation(rows, cols); });
}

// to += what `add` adds to zeros, passed through the dropout of a map.
template <class T, class Add>
void through_dropout(context<T>& ctx, const dropout_draw& drop, index_t map, matrix_view<T> to, Add&& add) {
    if (!drop.active()) return add(to);
    const arena_scope scope(*ctx.scratch);
    const matrix_view<T> part = ctx.temporary(to.rows, to.cols);
    for (index_t t = 0; t < to.rows; ++t) std::fill_n(part.row(t), to.cols, T(0));
    add(part);
    dropout_of_map(drop, map).template apply<T>(ctx.exec, part, to, true);
}

}  // namespace mox::inline MOX_ABI::detail
