#pragma once

// Products of a whole layer: groups of rows, one weight matrix per group, cut over threads by work and not
// by group, so that one hot expert does not serialise. A dense layer is the case of one group.

#include <mox/exec/executor.hpp>
#include <mox/kernel/gemm.hpp>

namespace mox::inline MOX_ABI::kernel {

/// Group e owns the slots [offsets[e], offsets[e + 1]).
struct group_view {
    const row_t* offsets = nullptr;
    index_t count = 0;

    index_t begin(index_t e) const noexcept { return static_cast<index_t>(offsets[e]); }
    index_t end(index_t e) const noexcept { return static_cast<index_t>(offsets[e + 1]); }
    index_t slots() const noexcept { return count == 0 ? 0 : end(count - 1); }
};

/// Weight matrices of one width: whole ones of one shape behind each other in memory; or, when the first is a
/// range of rows of a taller matrix, the ranges that follow in it; or, with `starts` and `heights`, any
/// ranges of the rows of one matrix.
template <class T, class Arch = simd::default_arch>
struct panel_stack {
    panel_view<T, Arch> first;
    const row_t* starts = nullptr;   ///< first row of each group's range, or null
    const row_t* heights = nullptr;  ///< rows of each group's range
    constexpr panel_view<T, Arch> operator[](index_t e) const noexcept {
        if (starts) return first.row_range(starts[e], starts[e] + heights[e]);
        if (first.rows < first.height) return first.row_range(e * first.rows, (e + 1) * first.rows);
        return {first.data + e * first.size(), first.rows, first.cols};
    }
};

namespace detail {

// Slots of one unit of work: long enough that a weight panel is read once for many rows, short enough that
// a hot expert is cut into many units.
inline constexpr index_t unit_rows = 192;

// Columns of results per unit: at one thread the whole width (fewer calls), else about four units a thread.
inline index_t units_along(index_t width, index_t threads) {
    return threads == 1 ? 1 : std::min(width, 4 * threads);
}

}  // namespace detail

/// Calls body(group, begin, end, piece, pieces) over units (slots of one group) x (`width` cut into pieces).
/// Results of different units must not overlap.
template <class Body>
void for_each_unit(executor_ref exec, group_view groups, index_t width, Body&& body) {
    const index_t threads = exec.concurrency();
    if (threads == 1) {
        for (index_t e = 0; e < groups.count; ++e) {
            if (groups.begin(e) < groups.end(e))
                body(e, groups.begin(e), groups.end(e), index_t{0}, index_t{1});
        }
        return;
    }
    // The number of units is known from the offsets alone; unit i is found by walking the groups.
    index_t chunks = 0;
    for (index_t e = 0; e < groups.count; ++e) {
        chunks += divide_up(groups.end(e) - groups.begin(e), detail::unit_rows);
    }
    const index_t pieces = std::max<index_t>(
        1, std::min(width, divide_up(detail::units_along(width, threads), std::max<index_t>(chunks, 1))));
    exec.run(chunks * pieces, [&](index_t unit) {
        index_t chunk = unit / pieces;
        index_t e = 0;
        for (;; ++e) {
            const index_t here = divide_up(groups.end(e) - groups.begin(e), detail::unit_rows);
            if (chunk < here) break;
            chunk -= here;
        }
        const index_t size = groups.end(e) - groups.begin(e);
        const index_t step = divide_up(size, divide_up(size, detail::unit_rows));
        const index_t begin = groups.begin(e) + chunk * step;
        body(e, begin, std::min(begin + step, groups.end(e)), unit % pieces, pieces);
    });
}

/// [begin, end) of piece i of `pieces` of a width.
struct piece_range {
    index_t begin, end;
    constexpr piece_range(index_t width, index_t i, index_t pieces) noexcept
        : begin(width * i / pieces), end(width * (i + 1) / pieces) {}
};

namespace detail {

// Panel p of the next group that has slots, or null: what a thread reads after group e.
template <class T, class Arch>
const T* next_group_panel(group_view groups, const panel_stack<const T, Arch>& w, index_t e, index_t p) {
    for (++e; e < groups.count; ++e) {
        if (groups.begin(e) < groups.end(e)) return w[e].panel(p);
    }
    return nullptr;
}

}  // namespace detail

/// out[slot] (+)= x[slot] W_e for every slot of every group.
template <class T, class Arch>
void grouped_product(executor_ref exec, group_view groups, row_source<const T> x,
                     panel_stack<const T, Arch> w, row_target<T> out) {
    for_each_unit(exec, groups, w.first.panels(),
                  [&](index_t e, index_t begin, index_t end, index_t piece, index_t pieces) {
                      const piece_range p(w.first.panels(), piece, pieces);
                      product<T, Arch>(x, begin, end, w[e], p.begin, p.end, out,
                                       detail::next_group_panel(groups, w, e, p.begin));
                  });
}

namespace detail {

// Rows of W that one unit of a transposed product takes at least: a panel of results where there are several.
template <class T, class Arch>
constexpr index_t transposed_step(const panel_stack<const T, Arch>& w) noexcept {
    return is_wide(w.first) ? panel_width<T, Arch> : 1;
}

}  // namespace detail

/// out[slot] (+)= y[slot] W_e' for every slot of every group; y has `cols` valid columns.
template <class T, class Arch>
void grouped_transposed(executor_ref exec, group_view groups, row_source<const T> y, index_t cols,
                        panel_stack<const T, Arch> w, row_target<T> out) {
    const index_t step = detail::transposed_step(w);
    for_each_unit(exec, groups, divide_up(w.first.rows, step),
                  [&](index_t e, index_t begin, index_t end, index_t piece, index_t pieces) {
                      const panel_view<const T, Arch> matrix = w[e];
                      const piece_range k(divide_up(matrix.rows, step), piece, pieces);
                      product_transposed<T, Arch>(y, cols, begin, end, matrix, k.begin * step,
                                                  std::min(k.end * step, matrix.rows), out,
                                                  groups.end(e) - groups.begin(e));
                  });
}

namespace detail {

// First slot of a group whose token is not below `token`. Tokens ascend inside a group.
inline index_t first_slot(index_t begin, index_t end, const row_t* tokens, index_t token) {
    if (tokens == nullptr) return std::clamp(token, begin, end);
    return std::lower_bound(tokens + begin, tokens + end, static_cast<row_t>(token)) - tokens;
}

}  // namespace detail

/// Adds results of all groups into token rows: calls body(group, begin, end, c0, c1) for units in which the
/// caller's thread is the only one that touches tokens [t0, t1), columns [c0, c1); groups come in ascending
/// order, so that sums do not depend on threads. `start(t0, t1, c0, c1)` comes first.
/// `tokens`: token of each slot, ascending inside a group; null when slot i is token i. `whole_rows`: cut
/// columns only when there are not enough tokens.
template <class Start, class Body>
void for_each_owner(executor_ref exec, group_view groups, const row_t* tokens, index_t token_count,
                    index_t width, Start&& start, Body&& body, bool whole_rows = false) {
    const index_t threads = exec.concurrency();
    // Pieces along the columns first: a weight is then read by one thread only. Tokens are cut when there are
    // not enough columns.
    const index_t wanted = threads == 1 ? 1 : 4 * threads;
    const index_t most_rows = std::max<index_t>(1, divide_up(token_count, 32));
    index_t columns = std::min(width, wanted);
    index_t rows = std::min(most_rows, divide_up(wanted, columns));
    if (whole_rows) {
        rows = std::min(most_rows, wanted);
        columns = std::min(width, divide_up(threads, rows));
    }
    exec.run(columns * rows, [&](index_t unit) {
        const piece_range c(width, unit / rows, columns);
        const piece_range t(token_count, unit % rows, rows);
        start(t.begin, t.end, c.begin, c.end);
        for (index_t e = 0; e < groups.count; ++e) {
            const index_t begin = detail::first_slot(groups.begin(e), groups.end(e), tokens, t.begin);
            const index_t end = detail::first_slot(begin, groups.end(e), tokens, t.end);
            if (begin < end) body(e, begin, end, c.begin, c.end);
        }
    });
}

/// y[token] (+)= scale[slot] * x[slot] W_e, summed over the slots of a token in the order of the groups.
/// y is overwritten (tokens without a slot become zero) unless `accumulate`.
template <class T, class Arch>
void grouped_product_to_tokens(executor_ref exec, group_view groups, const row_t* tokens,
                               row_source<const T> x, const T* scale, panel_stack<const T, Arch> w,
                               matrix_view<T> y, bool accumulate) {
    constexpr index_t W = panel_width<T, Arch>;
    // With one group that covers every token there is nothing to add up.
    const bool direct = !accumulate && groups.count == 1 && groups.slots() == y.rows;
    const bool far = asks_ahead(y);
    for_each_owner(
        exec, groups, tokens, y.rows, w.first.panels(),
        [&](index_t t0, index_t t1, index_t p0, index_t p1) {
            if (accumulate || direct) return;
            const index_t end = std::min(p1 * W, y.cols);
            for (index_t t = t0; t < t1; ++t) std::fill(y.row(t) + p0 * W, y.row(t) + end, T(0));
        },
        [&](index_t e, index_t begin, index_t end, index_t p0, index_t p1) {
            product<T, Arch>(x, begin, end, w[e], p0, p1,
                             {row_source<T>(y, tokens), y.cols, scale, !direct, far},
                             detail::next_group_panel(groups, w, e, p0));
        },
        // Parts of rows would let two threads write beside each other. Measured with two threads, 512 rows of
        // 1024 columns, 8, 32, 64 steps: 0.64, 0.82, 0.88 of the time.
        detail::passes_panels(w.first));
}

/// dx[token] (+)= dy[slot] W_e', like grouped_product_to_tokens; dy has `cols` valid columns.
template <class T, class Arch>
void grouped_transposed_to_tokens(executor_ref exec, group_view groups, const row_t* tokens,
                                  row_source<const T> dy, index_t cols, panel_stack<const T, Arch> w,
                                  matrix_view<T> dx, bool accumulate) {
    const bool direct = !accumulate && groups.count == 1 && groups.slots() == dx.rows;
    const index_t step = detail::transposed_step(w);
    for_each_owner(
        exec, groups, tokens, dx.rows, divide_up(w.first.rows, step),
        [&](index_t t0, index_t t1, index_t c0, index_t c1) {
            if (accumulate || direct) return;
            const index_t k1 = std::min(c1 * step, w.first.rows);
            for (index_t t = t0; t < t1; ++t) std::fill(dx.row(t) + c0 * step, dx.row(t) + k1, T(0));
        },
        [&](index_t e, index_t begin, index_t end, index_t c0, index_t c1) {
            product_transposed<T, Arch>(
                dy, cols, begin, end, w[e], c0 * step, std::min(c1 * step, w.first.rows),
                {row_source<T>(dx, tokens), dx.cols, nullptr, !direct}, groups.end(e) - groups.begin(e));
        });
}

/// dW_e (+)= sum over the slots of e of x[slot]' y[slot]. Overwrites unless `accumulate`: a group without
/// slots gets zeros. y has `cols` valid columns.
template <class T, class Arch>
void grouped_weight_gradient(executor_ref exec, group_view groups, row_source<const T> x,
                             row_source<const T> y, index_t cols, panel_stack<T, Arch> dw, bool accumulate) {
    const index_t panels = dw.first.panels();
    const index_t threads = exec.concurrency();
    // A unit is one panel of one group, cut along k when there are few of them.
    const index_t units = groups.count * panels;
    const index_t cuts =
        threads == 1 ? 1
                     : std::max<index_t>(1, std::min(divide_up(dw.first.rows, 8 * product_rows),
                                                     divide_up(4 * threads, std::max<index_t>(units, 1))));
    exec.run(units * cuts, [&](index_t unit) {
        const index_t e = unit / (panels * cuts);
        const index_t p = unit / cuts % panels;
        const piece_range k(dw[e].rows, unit % cuts, cuts);
        weight_gradient<T, Arch>(x, y, cols, groups.begin(e), groups.end(e), dw[e], p, k.begin, k.end,
                                 accumulate);
    });
}

}  // namespace mox::inline MOX_ABI::kernel
