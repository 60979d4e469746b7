#pragma once

// The one computation of every low-rank adapter: u = (x A') * g, update = s u B. An expert of rank R is a run
// of R neighbouring ranks, so E experts are one adapter of rank E R whose gate repeats R times.
//
// Both factors lie rank by rank (A: ranks x In, as checkpoints have it; B: ranks x Out), so that a rank, or
// the ranks of an expert, are rows in memory.

#include <vector>

#include <mox/kernel/dense.hpp>
#include <mox/kernel/dot.hpp>
#include <mox/layer/contract.hpp>
#include <mox/layer/dropout.hpp>
#include <mox/layer/ffn.hpp>

namespace mox::inline MOX_ABI {

/// Shape of a low-rank adapter (LoRA, arXiv 2106.09685).
struct adapter_spec {
    index_t rank = 0;              ///< of one expert, or of the whole adapter without experts
    double alpha = 0;              ///< the update is scaled by alpha / rank; 0: by 1
    bool rank_stabilised = false;  ///< scaled by alpha / sqrt(rank) (arXiv 2312.03732)
    bool gaussian = false;         ///< A starts normal with deviation 1 / rank, not even in +-1 / sqrt(in)
    double dropout = 0;            ///< probability, on the adapter's input only, in training only
    bool frozen = false;           ///< used and not trained; a router around experts still is
    index_t kept_ranks = 0;        ///< further ranks of earlier tasks, used and not trained (MoRAM)

    constexpr double scale() const {
        if (alpha == 0) return 1;
        double divisor = static_cast<double>(rank);
        if (rank_stabilised) {
            // Newton: std::sqrt is not constexpr.
            double root = divisor;
            for (int i = 0; i < 60; ++i) root = (root + divisor / root) / 2;
            divisor = root;
        }
        return alpha / divisor;
    }

    /// A and B of `experts` adapters of this shape, rank by rank.
    constexpr parameter down(std::string_view name, index_t experts, index_t in) const {
        return {.name = name,
                .form = storage::panels,
                .rows = experts * rank,
                .cols = in,
                .init = gaussian ? fill::normal : fill::uniform_cols,
                .decays = false,
                .trained = !frozen,
                .constant = gaussian ? 1.0 / static_cast<double>(rank) : 0.0};
    }
    constexpr parameter up(std::string_view name, index_t experts, index_t out) const {
        return {.name = name,
                .form = storage::panels,
                .rows = experts * rank,
                .cols = out,
                .init = fill::zeros,
                .decays = false,
                .trained = !frozen};
    }
};

namespace detail {

// sum over ranks [first, last) of A_ri B_ro; both factors rank by rank, as params::read gives them.
template <class T>
double factor_product(const std::vector<T>& a, const std::vector<T>& b, std::size_t in, std::size_t out,
                      std::size_t i, std::size_t o, std::size_t first, std::size_t last) {
    double sum = 0;
    for (std::size_t r = first; r < last; ++r)
        sum += static_cast<double>(a[r * in + i]) * static_cast<double>(b[r * out + o]);
    return sum;
}

template <class Base>
consteval bool check_adapted() {
    static_assert(!takes_ids<Base>(),
                  "mox: an adapter multiplies the rows that its base reads; a layer of token ids, such as "
                  "mox::embedding, reads none");
    return true;
}

}  // namespace detail

/// f(x) = s drop(x) A' B: a bank of experts made of nothing but ranks. x: In wide, f(x): Out; A (rank x In)
/// and B (rank x Out) of each expert are trained, s is Spec.scale() (LoRA, arXiv 2106.09685).
template <index_t In, index_t Out, adapter_spec Spec>
struct low_rank {
    static_assert(In > 0 && Out > 0, "mox::low_rank: both widths must be positive");
    static_assert(Spec.rank > 0, "mox: an adapter needs a positive rank, such as adapter_spec{.rank = 8}");
    static_assert(Spec.kept_ranks == 0, "mox::low_rank: kept_ranks is for mox::lora; experts have none");
    static_assert(Spec.dropout >= 0 && Spec.dropout < 1, "mox: the dropout of an adapter must lie in [0, 1)");

    static constexpr index_t in = In;
    static constexpr index_t out = Out;
    static constexpr index_t rank = Spec.rank;
    static constexpr bool draws = Spec.dropout > 0;

    static constexpr double flops(double /*context*/) { return 2.0 * rank * (In + Out); }

    template <index_t E>
    static constexpr std::array bank_parameters{Spec.down("a", E, In), Spec.up("b", E, Out)};

    template <class T>
    struct bank_record {
        bank_rows<T> rows;
        matrix_view<const T> x;
        matrix_view<T> z;  ///< s x A': slots x rank, or tokens x all ranks
        dropout_draw drop;
        bool dense;
    };

    /// Computing all ranks of all tokens costs what they cost together, but runs as two plain products;
    /// grouped rows pay for short tiles. Measured in bench/end_to_end/lora.cpp (crossover), 8 experts of rank
    /// 8: 6 of them take 0.97 as groups of what they take together, 7 take 1.12.
    static bool prefers_dense(const kernel::group_view& groups, index_t tokens) {
        return 8 * groups.slots() > 6 * groups.count * tokens;
    }

    /// y[token] (+)= gate * f_e(x[token]) for every slot; without `accumulate` other rows of y become zero.
    template <class T>
    static void bank_forward(context<T>& ctx, tensor_list<const T> w, bank_rows<T> rows,
                             matrix_view<const T> x, matrix_view<T> y, bool accumulate) {
        const index_t n = x.rows, experts = rows.groups.count, slots = rows.groups.slots();
        bank_record<T> r{rows, x, {}, {}, prefers_dense(rows.groups, n)};
        if constexpr (draws) {
            r.drop = dropout_draw::next(ctx, Spec.dropout);
            if (r.drop.active()) {
                const matrix_view<T> kept = ctx.activation(n, In);
                r.drop.template apply<T>(ctx.exec, x, kept, false);
                r.x = kept;
            }
        }
        r.z = ctx.activation(r.dense ? n : slots, r.dense ? experts * rank : rank);
        const arena_scope scope(*ctx.scratch);
        if (r.dense) {
            kernel::dense_transposed<T>(ctx.exec, down(w[0], experts), r.x, r.z, false);
            scale(ctx, r.z);
            const matrix_view<T> u = ctx.temporary(n, experts * rank);
            gated(ctx, r, r.z, u);
            kernel::dense<T>(ctx.exec, up(w[1], experts), u, y, accumulate);
        } else {
            kernel::grouped_transposed<T>(ctx.exec, rows.groups, kernel::row_source<const T>(r.x, rows.token),
                                          In, stack(down(w[0], experts)), {kernel::row_source<T>(r.z), rank});
            scale(ctx, r.z);
            kernel::grouped_product_to_tokens<T>(ctx.exec, rows.groups, rows.token,
                                                 kernel::row_source<const T>(r.z), rows.gate,
                                                 stack(up(w[1], experts)), y, accumulate);
        }
        ctx.save(r);
    }

    /// Gradients of a bank_forward. dgate: one value per slot, or null. dx is overwritten; rows without a
    /// slot become zero.
    template <class T>
    static void bank_backward(context<T>& ctx, tensor_list<const T> w, tensor_list<T> g,
                              matrix_view<const T> dy, matrix_view<T> dx, T* dgate) {
        const auto r = ctx.template restore<bank_record<T>>();
        const bank_rows<T>& rows = r.rows;
        const index_t n = dy.rows, experts = rows.groups.count;
        const arena_scope scope(*ctx.scratch);
        const matrix_view<T> dz = ctx.temporary(r.z.rows, r.z.cols);
        const matrix_view<T> u = ctx.temporary(r.z.rows, r.z.cols);
        const matrix_view<const T> a_rows = r.x;
        const matrix_view<T> dropped = r.drop.active() && ctx.input_gradient ? ctx.temporary(n, In) : dx;
        if (r.dense) {
            kernel::dense_transposed<T>(ctx.exec, up(w[1], experts), dy, dz, false);
            gate_gradient(ctx, r, dz, dgate);
            gated(ctx, r, dz, dz);
            gated(ctx, r, r.z, u);
            scale(ctx, dz);
            if (g[0]) {
                kernel::dense_weight_gradient<T>(ctx.exec, u, dy, up(g[1], experts), ctx.accumulate);
                kernel::dense_weight_gradient<T>(ctx.exec, dz, a_rows, down(g[0], experts), ctx.accumulate);
            }
            if (ctx.input_gradient) kernel::dense<T>(ctx.exec, down(w[0], experts), dz, dropped);
        } else {
            const kernel::row_source<const T> dy_rows(dy, rows.token), x_rows(a_rows, rows.token);
            kernel::grouped_transposed<T>(ctx.exec, rows.groups, dy_rows, Out, stack(up(w[1], experts)),
                                          {kernel::row_source<T>(dz), rank});
            gate_gradient(ctx, r, dz, dgate);
            gated(ctx, r, dz, dz);
            gated(ctx, r, r.z, u);
            scale(ctx, dz);
            if (g[0]) {
                kernel::grouped_weight_gradient<T>(ctx.exec, rows.groups, kernel::row_source<const T>(u),
                                                   dy_rows, Out, stack(up(g[1], experts)), ctx.accumulate);
                kernel::grouped_weight_gradient<T>(ctx.exec, rows.groups, kernel::row_source<const T>(dz),
                                                   x_rows, In, stack(down(g[0], experts)), ctx.accumulate);
            }
            if (ctx.input_gradient) {
                kernel::grouped_product_to_tokens<T>(
                    ctx.exec, rows.groups, rows.token, kernel::row_source<const T>(dz),
                    static_cast<const T*>(nullptr), stack(down(w[0], experts)), dropped, false);
            }
        }
        if (r.drop.active() && ctx.input_gradient) r.drop.template apply<T>(ctx.exec, dropped, dx, false);
    }

    /// A as a matrix of all ranks.
    template <class T>
    static constexpr kernel::panel_view<T> down(T* p, index_t experts) {
        return {p, experts * rank, kernel::panel_layout<std::remove_const_t<T>>::padded(In)};
    }
    template <class T>
    static constexpr kernel::panel_view<T> up(T* p, index_t experts) {
        return {p, experts * rank, kernel::panel_layout<std::remove_const_t<T>>::padded(Out)};
    }
    /// `all` expert by expert.
    template <class T>
    static constexpr kernel::panel_stack<T> stack(kernel::panel_view<T> all) {
        return {all.row_range(0, rank)};
    }
    /// z *= s
    template <class T>
    static void scale(context<T>& ctx, matrix_view<T> z) {
        if constexpr (Spec.scale() != 1) {
            constexpr T s = static_cast<T>(Spec.scale());
            parallel_ranges(ctx.exec, z.rows, 256, [&](index_t begin, index_t end) {
                for (index_t t = begin; t < end; ++t) {
                    for (index_t j = 0; j < z.cols; ++j) z(t, j) *= s;
                }
            });
        }
    }

private:
    // body(slot, expert, first value of the slot's ranks in a matrix shaped like z)
    template <class T, class Body>
    static void for_each_slot(context<T>& ctx, const bank_record<T>& r, Body&& body) {
        kernel::for_each_unit(ctx.exec, r.rows.groups, 1,
                              [&](index_t e, index_t begin, index_t end, index_t, index_t) {
                                  for (index_t s = begin; s < end; ++s) {
                                      if (r.dense) {
                                          body(s, r.rows.token ? r.rows.token[s] : s, e * rank);
                                      } else {
                                          body(s, s, index_t{0});
                                      }
                                  }
                              });
    }

    // to = gate * from on the ranks of each slot, 0 elsewhere.
    template <class T>
    static void gated(context<T>& ctx, const bank_record<T>& r, std::type_identity_t<matrix_view<T>> from,
                      std::type_identity_t<matrix_view<T>> to) {
        const bool everywhere = !r.dense || r.rows.groups.slots() == r.rows.groups.count * from.rows;
        const auto multiply = [&] {
            for_each_slot(ctx, r, [&](index_t s, index_t row, index_t col) {
                const T g = r.rows.gate ? r.rows.gate[s] : T(1);
                for (index_t j = 0; j < rank; ++j) to(row, col + j) = g * from(row, col + j);
            });
        };
        if (everywhere) {
            multiply();
            return;
        }
        if (to.data != from.data) {
            for (index_t t = 0; t < to.rows; ++t) std::fill_n(to.row(t), to.cols, T(0));
            multiply();
            return;
        }
        const arena_scope scope(*ctx.scratch);
        const matrix_view<T> copy = ctx.temporary(from.rows, from.cols);
        kernel::copy_rows<T>(ctx.exec, from, copy);
        gated(ctx, r, copy, to);
    }

    // dgate[slot] = <du, z> over the ranks of the slot; z holds the factor s.
    template <class T>
    static void gate_gradient(context<T>& ctx, const bank_record<T>& r, matrix_view<T> du, T* dgate) {
        if (dgate == nullptr) return;
        for_each_slot(ctx, r, [&](index_t s, index_t row, index_t col) {
            dgate[s] = kernel::dot_row<T>(du.row(row) + col, r.z.row(row) + col, rank);
        });
    }
};

}  // namespace mox::inline MOX_ABI
