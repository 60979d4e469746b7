#pragma once

// Layers with packed weights (kernel/weight_format.hpp). Packed weights are used and never trained, as under
// mox::frozen: they have no gradient and no optimiser state, the gradient of the input passes through.
//
// Inference multiplies the codes. Training forward and backward, for adapters around a packed layer (QLoRA,
// arXiv 2305.14314), widen the weights first, one matrix at a time, and leave rows exact.

#include <mox/kernel/dense.hpp>
#include <mox/kernel/packed_product.hpp>
#include <mox/layer/context.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

/// The tensor of a weight in format F.
template <class F>
constexpr parameter stored_as(parameter p) {
    if constexpr (kernel::is_packed<F>) {
        p.form = p.form == storage::gated_panels ? storage::gated_packed : storage::packed;
        p.packing = &kernel::packed_format_of<F>;
        p.trained = false;
    }
    return p;
}

/// Whether a pass multiplies codes.
template <class F, class T>
bool multiplies_codes(const context<T>& ctx) {
    return F::row_rule == weight::rows::quantised && !ctx.saving();
}

/// Elements of a widened matrix.
template <class T>
constexpr index_t widened_elements(index_t k, index_t n, bool gated) {
    using layout = kernel::panel_layout<T>;
    return round_up(k * (gated ? layout::padded_gated(n) : layout::padded(n)),
                    static_cast<index_t>(alignment / sizeof(T)));
}

/// The plain panels of a packed matrix, in the caller's scratch scope.
template <class F, class T>
kernel::panel_view<const T> widened(context<T>& ctx, const void* w, index_t k, index_t n) {
    using layout = kernel::panel_layout<T>;
    T* const panels = ctx.scratch->template take<T>(widened_elements<T>(k, n, false));
    kernel::widen<F, T>(ctx.exec, kernel::packed_stack<F>(w, k, n, false).first, n, false, panels);
    return {panels, k, layout::padded(n)};
}

/// y = x W, W packed.
template <class F, class T>
void packed_dense(context<T>& ctx, const void* w, matrix_view<const T> x, matrix_view<T> y) {
    const arena_scope scope(*ctx.scratch);
    if (!multiplies_codes<F>(ctx)) {
        kernel::dense<T>(ctx.exec, widened<F, T>(ctx, w, x.cols, y.cols), x, y);
        return;
    }
    const auto rows = kernel::packed_rows<F, T>::take(*ctx.scratch, x.rows, x.cols);
    kernel::pack_rows<F, T>(ctx.exec, x, rows);
    const row_t whole[2] = {0, static_cast<row_t>(x.rows)};
    kernel::grouped_packed_to_tokens<F, T>(ctx.exec, {whole, 1}, nullptr, rows,
                                           static_cast<const T*>(nullptr),
                                           kernel::packed_stack<F>(w, x.cols, y.cols, false), y, false);
}

/// dx = dy W', W packed.
template <class F, class T>
void packed_dense_transposed(context<T>& ctx, const void* w, matrix_view<const T> dy, matrix_view<T> dx) {
    const arena_scope scope(*ctx.scratch);
    kernel::dense_transposed<T>(ctx.exec, widened<F, T>(ctx, w, dx.cols, dy.cols), dy, dx, false);
}

}  // namespace detail

}  // namespace mox::inline MOX_ABI
