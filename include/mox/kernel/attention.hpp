#pragma once

// Attention over ragged batches without the tokens x tokens map: blocks of query rows against all their
// visible keys, complete rows in cache, so that softmax and the attention received need no second pass.
// Forward leaves the row log-sum-exp; backward recomputes the probabilities from it (FlashAttention, arXiv
// 2205.14135, has the idea; the blocks here are rows, because caches are larger than shared memories).

#include <atomic>
#include <cmath>

#include <mox/core/buffer.hpp>
#include <mox/kernel/dot.hpp>
#include <mox/kernel/gemm.hpp>
#include <mox/kernel/softmax.hpp>

namespace mox::inline MOX_ABI::kernel {

/// Shape of one attention. Query head h reads key/value head h / (heads / kv_heads).
struct attention_shape {
    index_t heads = 1;
    index_t kv_heads = 1;
    index_t head_dim = 1;
    bool causal = true;
    double scale = 1;  ///< on the scores, usually 1 / sqrt(head_dim)
};

/// How the rows are cut: sequence s has query rows [query[s], query[s + 1]) and key rows [key[s], key[s +
/// 1]), at least as many. Query i of n_q sits at key n_k - n_q + i, so decoding with a cache is the same
/// call.
struct attention_rows {
    const row_t* query = nullptr;
    const row_t* key = nullptr;
    index_t sequences = 0;
};

namespace detail {

// Scores of one block of query rows: about a quarter of the second cache level.
inline constexpr index_t score_values = 1 << 16;
inline constexpr index_t most_query_rows = 48;
// Partial sums of the attention received, per head of a sequence: few, because each has a number per key, and
// enough to share between threads.
inline constexpr index_t most_partial_sums = 8;

inline index_t query_block(index_t keys) {
    const index_t rows = score_values / std::max<index_t>(keys, 1) / product_rows * product_rows;
    return std::clamp(rows, product_rows, most_query_rows);
}

// Runs body(unit, worker) for all units; `worker` is below the concurrency and used by one thread at a time,
// so that each can have scratch memory.
template <class Body>
void for_each_with_worker(executor_ref exec, index_t units, Body&& body) {
    std::atomic<index_t> next{0};
    exec.run(std::min(units, exec.concurrency()), [&](index_t worker) {
        for (index_t u = next.fetch_add(1); u < units; u = next.fetch_add(1)) body(u, worker);
    });
}

// from: n rows of d values -> panels with one column per row (the transpose), padding zero.
template <class T, class Arch>
void pack_transposed(matrix_view<const T> from, T* to) {
    constexpr index_t W = panel_width<T, Arch>;
    const panel_view<T, Arch> panels(to, from.cols, panel_layout<T, Arch>::padded(from.rows));
    for (index_t p = 0; p < panels.panels(); ++p) {
        const index_t width = panels.width(p);
        T* base = panels.panel(p);
        const index_t valid = std::min(width, from.rows - p * W);
        for (index_t j = 0; j < valid; ++j) {
            const T* row = from.row(p * W + j);
            for (index_t k = 0; k < from.cols; ++k) base[k * width + j] = row[k];
        }
        for (index_t k = 0; k < from.cols; ++k)
            std::fill(base + k * width + valid, base + (k + 1) * width, T(0));
    }
}

// from: n rows of d values -> rows of `stride` values, padding zero.
template <class T>
void pack_rows(matrix_view<const T> from, T* to, index_t stride) {
    for (index_t i = 0; i < from.rows; ++i) {
        std::copy_n(from.row(i), from.cols, to + i * stride);
        std::fill(to + i * stride + from.cols, to + (i + 1) * stride, T(0));
    }
}

// c[r] = x[r] * panels, columns [0, cols); rows of c must have room for whole panels.
template <class T, class Arch>
void scores_tile(const T* const* x, index_t rows, panel_view<const T, Arch> panels, index_t cols,
                 T* const* c) {
    constexpr index_t W = panel_width<T, Arch>;
    T* to[product_rows];
    for (index_t p = 0; p * W < cols; ++p) {
        for (index_t r = 0; r < rows; ++r) to[r] = c[r] + p * W;
        tile_table<T, Arch>::product(rows, panels.width(p) / simd::lanes<T, Arch>, x, panels.panel(p),
                                     panels.width(p), panels.rows, to, nullptr, false);
    }
}

// c[r] (+)= scale[r] * x[r][0, k) * b, b row-major with padded rows of `cols` values.
template <class T, class Arch>
void rows_times(const T* const* x, index_t rows, const T* b, index_t ldb, index_t k, index_t cols,
                T* const* c, const T* scale, bool accumulate) {
    constexpr index_t W = panel_width<T, Arch>;
    T* to[product_rows];
    for (index_t j = 0; j < cols; j += W) {
        for (index_t r = 0; r < rows; ++r) to[r] = c[r] + j;
        tile_table<T, Arch>::product(rows, std::min(W, cols - j) / simd::lanes<T, Arch>, x, b + j, ldb, k, to,
                                     scale, accumulate);
    }
}

// Decoding: so few queries that packing the keys would cost more than the products. One (row, head) a unit,
// keys and values read where they lie.
template <class T, class Arch>
void attention_few_queries(executor_ref exec, arena& scratch, const attention_shape& s,
                           const attention_rows& rows, matrix_view<const T> q, matrix_view<const T> k,
                           matrix_view<const T> v, matrix_view<T> out, T* lse, index_t longest) {
    const index_t d = s.head_dim, group = s.heads / s.kv_heads;
    const T scale = static_cast<T>(s.scale);
    const index_t units = rows.query[rows.sequences] * s.heads;
    const index_t workers = std::max<index_t>(1, std::min(units, exec.concurrency()));
    T* memory = scratch.take<T>(workers * longest);
    for_each_with_worker(exec, units, [&](index_t unit, index_t worker) {
        const index_t row = unit / s.heads, head = unit % s.heads;
        index_t seq = 0;
        while (row >= rows.query[seq + 1]) ++seq;
        const index_t n_q = rows.query[seq + 1] - rows.query[seq];
        const index_t k0 = rows.key[seq], n_k = rows.key[seq + 1] - k0;
        const index_t n = s.causal ? n_k - n_q + (row - rows.query[seq]) + 1 : n_k;
        const index_t at = head / group * d;
        T* p = memory + worker * longest;
        for (index_t j = 0; j < n; ++j) {
            p[j] = scale * dot_row<T, Arch>(q.row(row) + head * d, k.row(k0 + j) + at, d);
        }
        const T l = softmax_row<T, Arch>(p, n, p);
        if (lse) lse[row * s.heads + head] = l;
        T* to = out.row(row) + head * d;
        std::fill_n(to, d, T(0));
        for (index_t j = 0; j < n; ++j) {
            const T* MOX_RESTRICT value = v.row(k0 + j) + at;
            for (index_t c = 0; c < d; ++c) to[c] += p[j] * value[c];
        }
    });
}

}  // namespace detail

/// out = softmax(scale q k') v per head; q and out: heads * head_dim columns, k and v: kv_heads * head_dim.
/// lse: [query rows x heads] or null. received: per key row the sum over heads and queries of its
/// probabilities, overwritten, or null. Bit-identical for any number of threads.
template <class T, class Arch = simd::default_arch>
void attention_forward(executor_ref exec, arena& scratch, const attention_shape& s,
                       const attention_rows& rows, std::type_identity_t<matrix_view<const T>> q,
                       std::type_identity_t<matrix_view<const T>> k,
                       std::type_identity_t<matrix_view<const T>> v, matrix_view<T> out, T* lse,
                       T* received) {
    constexpr index_t W = panel_width<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    using batch = simd::batch<T, Arch>;
    const arena_scope scope(scratch);
    const index_t d = s.head_dim, dp = round_up(d, L), group = s.heads / s.kv_heads;
    const T scale = static_cast<T>(s.scale);
    index_t longest = 0, most_queries = 0;
    for (index_t seq = 0; seq < rows.sequences; ++seq) {
        longest = std::max<index_t>(longest, rows.key[seq + 1] - rows.key[seq]);
        most_queries = std::max<index_t>(most_queries, rows.query[seq + 1] - rows.query[seq]);
    }
    if (most_queries < product_rows && longest > most_queries && received == nullptr) {
        detail::attention_few_queries<T, Arch>(exec, scratch, s, rows, q, k, v, out, lse, longest);
        return;
    }

    // Keys as panels and values as padded rows, once per key/value head.
    const index_t key_rows = rows.key[rows.sequences];
    const index_t padded_keys = round_up(key_rows, L) + rows.sequences * L;
    T* kt = scratch.take<T>(padded_keys * d * s.kv_heads);
    T* vp = scratch.take<T>(key_rows * dp * s.kv_heads);
    const auto keys_at = [&](index_t seq, index_t head) {
        return kt + (head * padded_keys + round_up(rows.key[seq], L) + seq * L) * d;
    };
    const auto values_at = [&](index_t seq, index_t head) {
        return vp + (head * key_rows + rows.key[seq]) * dp;
    };
    exec.run(rows.sequences * s.kv_heads, [&](index_t unit) {
        const index_t seq = unit / s.kv_heads, head = unit % s.kv_heads;
        const index_t begin = rows.key[seq], n = rows.key[seq + 1] - begin;
        detail::pack_transposed<T, Arch>(k.middle_rows(begin, n).middle_cols(head * d, d),
                                         keys_at(seq, head));
        detail::pack_rows<T>(v.middle_rows(begin, n).middle_cols(head * d, d), values_at(seq, head), dp);
    });

    // A unit is a block of query rows of one head, or some blocks that share a partial sum.
    const auto unit_rows = [&](index_t seq) {
        const index_t step = detail::query_block(rows.key[seq + 1] - rows.key[seq]);
        if (received == nullptr) return step;
        const index_t blocks = divide_up(rows.query[seq + 1] - rows.query[seq], step);
        return step * std::max<index_t>(1, divide_up(blocks, detail::most_partial_sums));
    };
    const auto units_of = [&](index_t seq) {
        return divide_up(rows.query[seq + 1] - rows.query[seq], unit_rows(seq)) * s.heads;
    };
    index_t units = 0;
    for (index_t seq = 0; seq < rows.sequences; ++seq) units += units_of(seq);
    const index_t stride = round_up(longest, W);
    const index_t workers = std::max<index_t>(1, std::min(units, exec.concurrency()));
    T* score_memory = scratch.take<T>(workers * detail::query_block(0) * stride);
    T* row_memory = scratch.take<T>(workers * product_rows * dp);
    // Attention received: one partial sum per unit, added up in order afterwards.
    T* partial = received ? scratch.take<T>(units * stride) : nullptr;

    detail::for_each_with_worker(exec, units, [&](index_t unit, index_t worker) {
        index_t seq = 0, left = unit;
        for (; left >= units_of(seq); ++seq) left -= units_of(seq);
        const index_t q0 = rows.query[seq], n_q = rows.query[seq + 1] - q0;
        const index_t n_k = rows.key[seq + 1] - rows.key[seq];
        const index_t block_size = detail::query_block(n_k);
        const index_t head = left % s.heads, unit_begin = left / s.heads * unit_rows(seq);
        const index_t unit_end = std::min(n_q, unit_begin + unit_rows(seq));
        const auto visible = [&](index_t i) { return s.causal ? n_k - n_q + i + 1 : n_k; };
        const panel_view<const T, Arch> panels(keys_at(seq, head / group), d,
                                               panel_layout<T, Arch>::padded(n_k));
        const T* values = values_at(seq, head / group);
        T* scores = score_memory + worker * detail::query_block(0) * stride;
        T* local = row_memory + worker * product_rows * dp;
        T* columns = partial ? partial + unit * stride : nullptr;
        if (columns) std::fill_n(columns, n_k, T(0));

        const auto tile = [&](index_t begin, index_t offset, index_t count) {
            const T* qs[product_rows];
            const T* ps[product_rows];
            T* ss[product_rows];
            T* os[product_rows];
            T inverse[product_rows];
            const index_t i0 = begin + offset;
            for (index_t r = 0; r < count; ++r) {
                qs[r] = q.row(q0 + i0 + r) + head * d;
                ss[r] = scores + (offset + r) * stride;
                ps[r] = ss[r];
                os[r] = dp == d ? out.row(q0 + i0 + r) + head * d : local + r * dp;
            }
            detail::scores_tile<T, Arch>(qs, count, panels, visible(i0 + count - 1), ss);
            for (index_t r = 0; r < count; ++r) {
                const index_t n = visible(i0 + r);
                T* row = ss[r];
                const T largest = detail::row_max<T, Arch>(row, n);
                batch sums(T(0));
                index_t j = 0;
                for (; j + L <= n; j += L) {
                    const batch e = simd::exp((simd::load<T, Arch>(row + j) - batch(largest)) * batch(scale));
                    simd::store(row + j, e);
                    sums = sums + e;
                }
                T sum = simd::reduce_add(sums);
                for (; j < n; ++j) {
                    row[j] = std::exp((row[j] - largest) * scale);
                    sum += row[j];
                }
                inverse[r] = T(1) / sum;
                if (lse) lse[(q0 + i0 + r) * s.heads + head] = largest * scale + std::log(sum);
                if (columns) {
                    const batch w(inverse[r]);
                    for (j = 0; j + L <= n; j += L) {
                        simd::store(columns + j, simd::fma(simd::load<T, Arch>(row + j), w,
                                                           simd::load<T, Arch>(columns + j)));
                    }
                    for (; j < n; ++j) columns[j] += row[j] * inverse[r];
                }
            }
            // The keys that all rows of the tile see together; the few others row by row, so that a value a
            // row must not see is not even multiplied by zero. Divided at the end: the numbers of a row do
            // not depend on where its tile begins.
            const index_t common = visible(i0);
            detail::rows_times<T, Arch>(ps, count, values, dp, common, dp, os, nullptr, false);
            for (index_t r = 0; r < count; ++r) {
                for (index_t j = common; j < visible(i0 + r); ++j) {
                    const batch w(ss[r][j]);
                    const T* value = values + j * dp;
                    for (index_t c = 0; c < dp; c += L) {
                        simd::store(os[r] + c, simd::fma(w, simd::load<T, Arch>(value + c),
                                                         simd::load<T, Arch>(os[r] + c)));
                    }
                }
                const batch w(inverse[r]);
                for (index_t c = 0; c < dp; c += L) {
                    simd::store(os[r] + c, simd::load<T, Arch>(os[r] + c) * w);
                }
                if (dp != d) std::copy_n(os[r], d, out.row(q0 + i0 + r) + head * d);
            }
        };
        for (index_t begin = unit_begin; begin < unit_end; begin += block_size) {
            even_tiles(std::min(block_size, unit_end - begin), product_rows,
                       [&](index_t offset, index_t count) { tile(begin, offset, count); });
        }
    });

    if (received) {
        index_t unit = 0;
        for (index_t seq = 0; seq < rows.sequences; ++seq) {
            const index_t n_k = rows.key[seq + 1] - rows.key[seq];
            T* to = received + rows.key[seq];
            std::fill_n(to, n_k, T(0));
            for (index_t u = 0; u < units_of(seq); ++u, ++unit) {
                const T* from = partial + unit * stride;
                for (index_t j = 0; j < n_k; ++j) to[j] += from[j];
            }
        }
    }
}

/// Gradients of attention_forward. out and lse are what forward left; dq, dk, dv are overwritten. dreceived:
/// per key row the gradient of forward's `received`, or null.
/// A key/value head of a sequence is the unit of work: its sums have one owner and one order.
template <class T, class Arch = simd::default_arch>
void attention_backward(executor_ref exec, arena& scratch, const attention_shape& s,
                        const attention_rows& rows, std::type_identity_t<matrix_view<const T>> q,
                        std::type_identity_t<matrix_view<const T>> k,
                        std::type_identity_t<matrix_view<const T>> v,
                        std::type_identity_t<matrix_view<const T>> out, const T* lse,
                        std::type_identity_t<matrix_view<const T>> dout, matrix_view<T> dq, matrix_view<T> dk,
                        matrix_view<T> dv, const T* dreceived = nullptr) {
    constexpr index_t W = panel_width<T, Arch>;
    constexpr index_t L = simd::lanes<T, Arch>;
    using batch = simd::batch<T, Arch>;
    const arena_scope scope(scratch);
    const index_t d = s.head_dim, dp = round_up(d, L), group = s.heads / s.kv_heads;
    const T scale = static_cast<T>(s.scale);

    index_t longest = 0;
    for (index_t seq = 0; seq < rows.sequences; ++seq) {
        longest = std::max<index_t>(longest, rows.key[seq + 1] - rows.key[seq]);
    }
    const index_t stride = round_up(longest, W);
    const index_t units = rows.sequences * s.kv_heads;
    const index_t workers = std::max<index_t>(1, std::min(units, exec.concurrency()));
    const index_t block_rows = detail::query_block(0);
    // Per worker: k and v transposed and as rows, dk, dv; q and dout of one head; two blocks of scores.
    const index_t size = 2 * stride * d + 4 * stride * dp + 3 * block_rows * dp + 2 * block_rows * stride;
    T* memory = scratch.take<T>(workers * size);

    detail::for_each_with_worker(exec, units, [&](index_t unit, index_t worker) {
        const index_t seq = unit / s.kv_heads, kv = unit % s.kv_heads;
        const index_t q0 = rows.query[seq], n_q = rows.query[seq + 1] - q0;
        const index_t k0 = rows.key[seq], n_k = rows.key[seq + 1] - k0;
        T* kt = memory + worker * size;
        T* vt = kt + stride * d;
        T* kr = vt + stride * d;
        T* vr = kr + stride * dp;
        T* dkr = vr + stride * dp;
        T* dvr = dkr + stride * dp;
        T* qr = dvr + stride * dp;
        T* gr = qr + block_rows * dp;
        T* dqr = gr + block_rows * dp;
        T* prob = dqr + block_rows * dp;
        T* dscore = prob + block_rows * stride;
        const auto keys = k.middle_rows(k0, n_k).middle_cols(kv * d, d);
        const auto values = v.middle_rows(k0, n_k).middle_cols(kv * d, d);
        detail::pack_transposed<T, Arch>(keys, kt);
        detail::pack_transposed<T, Arch>(values, vt);
        detail::pack_rows<T>(keys, kr, dp);
        const index_t padded = panel_layout<T, Arch>::padded(n_k);
        const panel_view<const T, Arch> key_panels(kt, d, padded), value_panels(vt, d, padded);
        std::fill_n(dkr, n_k * dp, T(0));
        std::fill_n(dvr, n_k * dp, T(0));
        const auto visible = [&](index_t i) { return s.causal ? n_k - n_q + i + 1 : n_k; };
        const index_t block_size = detail::query_block(n_k);

        for (index_t head = kv * group; head < (kv + 1) * group; ++head) {
            for (index_t begin = 0; begin < n_q; begin += block_size) {
                const index_t count = std::min(block_size, n_q - begin);
                const index_t seen = visible(begin + count - 1);
                detail::pack_rows<T>(q.middle_rows(q0 + begin, count).middle_cols(head * d, d), qr, dp);
                detail::pack_rows<T>(dout.middle_rows(q0 + begin, count).middle_cols(head * d, d), gr, dp);
                const T* p_rows[detail::most_query_rows];
                const T* s_rows[detail::most_query_rows];
                const T* q_rows[detail::most_query_rows];
                const T* g_rows[detail::most_query_rows];
                for (index_t i = 0; i < count; ++i) {
                    p_rows[i] = prob + i * stride;
                    s_rows[i] = dscore + i * stride;
                    q_rows[i] = qr + i * dp;
                    g_rows[i] = gr + i * dp;
                }
                even_tiles(count, product_rows, [&](index_t offset, index_t tile) {
                    T* ps[product_rows];
                    T* ss[product_rows];
                    T* qs[product_rows];
                    for (index_t r = 0; r < tile; ++r) {
                        ps[r] = prob + (offset + r) * stride;
                        ss[r] = dscore + (offset + r) * stride;
                        qs[r] = dqr + (offset + r) * dp;
                    }
                    const index_t last = visible(begin + offset + tile - 1);
                    detail::scores_tile<T, Arch>(q_rows + offset, tile, key_panels, last, ps);
                    detail::scores_tile<T, Arch>(g_rows + offset, tile, value_panels, last, ss);
                    for (index_t r = 0; r < tile; ++r) {
                        const index_t i = begin + offset + r;
                        const index_t n = visible(i);
                        T delta =
                            dot_row<T, Arch>(dout.row(q0 + i) + head * d, out.row(q0 + i) + head * d, d);
                        const T shift = lse[(q0 + i) * s.heads + head];
                        T* p = ps[r];
                        T* g = ss[r];
                        index_t j = 0;
                        if (dreceived) {
                            // One more term of the probabilities' gradient, and of its mean in delta.
                            const T* c = dreceived + k0;
                            for (; j < n; ++j) {
                                g[j] += c[j];
                                delta += std::exp(p[j] * scale - shift) * c[j];
                            }
                            j = 0;
                        }
                        for (; j + L <= n; j += L) {
                            const batch e =
                                simd::exp(simd::load<T, Arch>(p + j) * batch(scale) - batch(shift));
                            simd::store(p + j, e);
                            simd::store(g + j,
                                        e * (simd::load<T, Arch>(g + j) - batch(delta)) * batch(scale));
                        }
                        for (; j < n; ++j) {
                            p[j] = std::exp(p[j] * scale - shift);
                            g[j] = p[j] * (g[j] - delta) * scale;
                        }
                        // What this row does not see but others of the block do.
                        std::fill(p + n, p + seen, T(0));
                        std::fill(g + n, g + seen, T(0));
                    }
                    detail::rows_times<T, Arch>(s_rows + offset, tile, kr, dp, last, dp, qs, nullptr, false);
                });
                for (index_t i = 0; i < count; ++i) {
                    std::copy_n(dqr + i * dp, d, dq.row(q0 + begin + i) + head * d);
                }
                even_tiles(seen, product_rows, [&](index_t key, index_t tile) {
                    // Queries before the first one that sees these keys contribute nothing.
                    const index_t first =
                        s.causal ? std::clamp<index_t>(key - (n_k - n_q) - begin, 0, count) : 0;
                    for (index_t c = 0; c < dp; c += W) {
                        const index_t vectors = std::min(W, dp - c) / L;
                        tile_table<T, Arch>::outer(tile, vectors, s_rows + first, key, q_rows + first, c,
                                                   count - first, dkr + key * dp + c, dp, true);
                        tile_table<T, Arch>::outer(tile, vectors, p_rows + first, key, g_rows + first, c,
                                                   count - first, dvr + key * dp + c, dp, true);
                    }
                });
            }
        }
        for (index_t j = 0; j < n_k; ++j) {
            std::copy_n(dkr + j * dp, d, dk.row(k0 + j) + kv * d);
            std::copy_n(dvr + j * dp, d, dv.row(k0 + j) + kv * d);
        }
    });
}

}  // namespace mox::inline MOX_ABI::kernel
