#pragma once

// Feed-forward networks and experts with packed weights.

#include <mox/layer/ffn.hpp>
#include <mox/layer/packed.hpp>

namespace mox::inline MOX_ABI::detail {

/// two_matrix_ffn with both maps in format F. Nothing of it is trained.
template <index_t D, index_t H, class Act, bool Gated, bias Bias, class F>
struct packed_ffn : two_matrix_ffn<D, H, Act, Gated, Bias> {
    using plain = two_matrix_ffn<D, H, Act, Gated, Bias>;
    using plain::biased;

    template <index_t E>
    static constexpr auto bank_parameters = [] {
        auto all = plain::template bank_parameters<E>;
        all[0] = stored_as<F>(all[0]);
        all[1] = stored_as<F>(all[1]);
        for (parameter& p : all) p.trained = false;
        return all;
    }();

    template <class T>
    static void bank_forward(context<T>& ctx, tensor_list<const T> w, bank_rows<T> rows,
                             matrix_view<const T> x, matrix_view<T> y, bool accumulate) {
        if (multiplies_codes<F>(ctx)) {
            multiply_codes(ctx, w, rows, x, y, accumulate);
        } else {
            if (!accumulate) {
                for (index_t t = 0; t < y.rows; ++t) std::fill_n(y.row(t), D, T(0));
            }
            for (index_t e = 0; e < rows.groups.count; ++e) {
                if (rows.groups.begin(e) == rows.groups.end(e)) continue;
                const arena_scope scope(*ctx.scratch);
                const widened_expert<T> expert(ctx, w, rows, e);
                plain::template bank_forward<T>(ctx, expert.list(w), expert.rows, x, y, true);
            }
        }
        ctx.save(rows);
    }

    template <class T>
    static void bank_backward(context<T>& ctx, tensor_list<const T> w, tensor_list<T> /*g*/,
                              matrix_view<const T> dy, matrix_view<T> dx, T* dgate) {
        const auto rows = ctx.template restore<bank_rows<T>>();
        const arena_scope scope(*ctx.scratch);
        matrix_view<T> part;
        if (ctx.input_gradient) {
            part = ctx.temporary(dx.rows, D);
            for (index_t t = 0; t < dx.rows; ++t) std::fill_n(dx.row(t), D, T(0));
        }
        for (index_t e = rows.groups.count; e-- > 0;) {
            const index_t begin = rows.groups.begin(e);
            if (begin == rows.groups.end(e)) continue;
            const arena_scope inner(*ctx.scratch);
            const widened_expert<T> expert(ctx, w, rows, e);
            plain::template bank_backward<T>(ctx, expert.list(w), {nullptr, nullptr, expert.places.data()},
                                             dy, part, dgate ? dgate + begin : nullptr);
            if (ctx.input_gradient) kernel::add_rows<T>(ctx.exec, part, dx);
        }
    }

private:
    // One expert with plain weights, as a bank of its own.
    template <class T>
    struct widened_expert {
        T* panels;
        std::array<tensor_place, 4> places{};
        bank_rows<T> rows;

        widened_expert(context<T>& ctx, tensor_list<const T> w, const bank_rows<T>& all, index_t e) {
            constexpr index_t first = widened_elements<T>(D, H, Gated);
            constexpr index_t second = widened_elements<T>(H, D, false);
            panels = ctx.scratch->template take<T>(first + second);
            kernel::widen<F, T>(ctx.exec, first_map<T>(w)[e], H, Gated, panels);
            kernel::widen<F, T>(ctx.exec, second_map<T>(w)[e], D, false, panels + first);
            places[0] = {0, true};
            places[1] = {first, true};
            if constexpr (biased) {
                places[2] = {w.places[2].offset + e * H, false};
                places[3] = {w.places[3].offset + e * D, false};
            }
            // Backward reads the offsets.
            row_t* const offsets = ctx.kept->template take<row_t>(2);
            const index_t begin = all.groups.begin(e);
            offsets[0] = all.token ? 0 : static_cast<row_t>(begin);
            offsets[1] = static_cast<row_t>(all.groups.end(e) - (all.token ? begin : 0));
            rows = {
                {offsets, 1}, all.token ? all.token + begin : nullptr, all.gate ? all.gate + begin : nullptr};
        }
        tensor_list<const T> list(tensor_list<const T> w) const { return {panels, w.frozen, places.data()}; }
    };

    template <class T>
    static kernel::packed_stack<F> first_map(tensor_list<const T> w) {
        return {w[0], D, H, Gated};
    }
    template <class T>
    static kernel::packed_stack<F> second_map(tensor_list<const T> w) {
        return {w[1], H, D, false};
    }

    template <class T>
    static void multiply_codes(context<T>& ctx, tensor_list<const T> w, const bank_rows<T>& rows,
                               matrix_view<const T> x, matrix_view<T> y, bool accumulate) {
        using arch = simd::default_arch;
        constexpr index_t W = kernel::panel_width<float>;
        const arena_scope scope(*ctx.scratch);
        const index_t slots = rows.groups.slots();
        const auto first = first_map<T>(w), second = second_map<T>(w);
        const auto input = kernel::packed_rows<F, T>::take(*ctx.scratch, x.rows, D);
        kernel::pack_rows<F, T>(ctx.exec, x, input);
        // Whole registers of units: the last panel is padded.
        const matrix_view<T> h = ctx.temporary(slots, round_up(H, simd::lanes<float>));
        kernel::grouped_packed_tiles<F, T>(
            ctx.exec, rows.groups, input, rows.token, first, second.next(rows.groups, -1, 0, nullptr),
            [&](index_t e, index_t slot, index_t count, index_t panel, T* tile, index_t width) {
                for (index_t r = 0; r < count; ++r, tile += W) {
                    if constexpr (biased) {
                        const index_t valid = std::min(width, H - panel * W);
                        const T* b = w[2] + e * H + panel * W;
                        for (index_t j = 0; j < valid; ++j) tile[j] += b[j];
                    }
                    T* const to = h.row(slot + r) + panel * (Gated ? W / 2 : W);
                    if constexpr (Gated) {
                        kernel::gated_tile_row<T, arch, Act>(tile, width, to);
                    } else {
                        kernel::plain_tile_row<T, arch, Act>(tile, width, to);
                    }
                }
            });
        const auto hidden = kernel::packed_rows<F, T>::take(*ctx.scratch, slots, H);
        kernel::pack_rows<F, T>(ctx.exec, h, hidden);
        kernel::grouped_packed_to_tokens<F, T>(ctx.exec, rows.groups, rows.token, hidden, rows.gate, second,
                                               y, accumulate);
        if constexpr (biased) add_output_bias(ctx, rows, w[3], D, y);
    }
};

template <index_t D, index_t H, class Act, bool Gated, bias Bias, class Weight>
requires kernel::is_packed<Weight>
struct ffn_with_weights<D, H, Act, Gated, Bias, Weight> {
    using type = packed_ffn<D, H, Act, Gated, Bias, Weight>;
};

}  // namespace mox::inline MOX_ABI::detail
