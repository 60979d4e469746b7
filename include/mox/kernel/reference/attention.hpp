#pragma once

// The plain twins of attention_forward.hpp, attention_decode.hpp, attention_received.hpp and
// attention_backward.hpp: one sequence, one head after the other, row by row of the whole map.

#include <vector>

#include <mox/kernel/reference/rows.hpp>

namespace mox::inline MOX_ABI::kernel::reference {

/// Calls visit(i, p, visible, log_sum_exp) for every row i of the map softmax(scale q k') of one head: its
/// `visible` probabilities p. Query i sits at key n_k - n_q + i.
template <class T, class Visit>
void for_each_map_row(bool causal, T scale, matrix_view<const T> q, matrix_view<const T> k, Visit&& visit) {
    std::vector<T> p(static_cast<std::size_t>(k.rows));
    for (index_t i = 0; i < q.rows; ++i) {
        const index_t visible = causal ? k.rows - q.rows + i + 1 : k.rows;
        for (index_t j = 0; j < visible; ++j) {
            T score = 0;
            for (index_t c = 0; c < q.cols; ++c) score += q(i, c) * k(j, c);
            p[static_cast<std::size_t>(j)] = scale * score;
        }
        const T log_sum_exp = softmax_row(p.data(), visible, p.data());
        visit(i, static_cast<const T*>(p.data()), visible, log_sum_exp);
    }
}

/// out = softmax(scale q k') v for every head. received, when not null, gets the sum of each column of all
/// maps; lse, queries x heads, the log(sum(exp)) of each row.
template <class T>
void attention(index_t heads, index_t kv_heads, index_t head_dim, bool causal, T scale,
               matrix_view<const T> q, matrix_view<const T> k, matrix_view<const T> v, matrix_view<T> out,
               T* received, T* lse = nullptr) {
    if (received) std::fill_n(received, k.rows, T(0));
    for (index_t h = 0; h < heads; ++h) {
        const index_t kv = h / (heads / kv_heads) * head_dim;
        for_each_map_row<T>(causal, scale, q.middle_cols(h * head_dim, head_dim), k.middle_cols(kv, head_dim),
                            [&](index_t i, const T* p, index_t visible, T log_sum_exp) {
                                for (index_t c = 0; c < head_dim; ++c) {
                                    T sum = 0;
                                    for (index_t j = 0; j < visible; ++j) sum += p[j] * v(j, kv + c);
                                    out(i, h * head_dim + c) = sum;
                                }
                                for (index_t j = 0; received && j < visible; ++j) received[j] += p[j];
                                if (lse) lse[i * heads + h] = log_sum_exp;
                            });
    }
}

/// The gradients: with dp_j = dout . v_j + dreceived_j, the map's row has the gradient
/// ds = p * (dp - sum(p dp)). dq, dk and dv are overwritten. dreceived, when not null, is the gradient of
/// `received`.
template <class T>
void attention_backward(index_t heads, index_t kv_heads, index_t head_dim, bool causal, T scale,
                        matrix_view<const T> q, matrix_view<const T> k, matrix_view<const T> v,
                        matrix_view<const T> dout, const T* dreceived, matrix_view<T> dq, matrix_view<T> dk,
                        matrix_view<T> dv) {
    for (index_t i = 0; i < dq.rows; ++i) std::fill_n(dq.row(i), dq.cols, T(0));
    for (index_t j = 0; j < dk.rows; ++j) {
        std::fill_n(dk.row(j), dk.cols, T(0));
        std::fill_n(dv.row(j), dv.cols, T(0));
    }
    std::vector<T> ds(static_cast<std::size_t>(k.rows));
    for (index_t h = 0; h < heads; ++h) {
        const index_t at = h * head_dim, kv = h / (heads / kv_heads) * head_dim;
        for_each_map_row<T>(causal, scale, q.middle_cols(at, head_dim), k.middle_cols(kv, head_dim),
                            [&](index_t i, const T* p, index_t visible, T) {
                                for (index_t j = 0; j < visible; ++j) {
                                    T dp = dreceived ? dreceived[j] : T(0);
                                    for (index_t c = 0; c < head_dim; ++c) {
                                        dp += dout(i, at + c) * v(j, kv + c);
                                        dv(j, kv + c) += p[j] * dout(i, at + c);
                                    }
                                    ds[static_cast<std::size_t>(j)] = dp;
                                }
                                softmax_backward_row(p, ds.data(), visible, ds.data());
                                for (index_t j = 0; j < visible; ++j) {
                                    const T d = scale * ds[static_cast<std::size_t>(j)];
                                    for (index_t c = 0; c < head_dim; ++c) {
                                        dq(i, at + c) += d * k(j, kv + c);
                                        dk(j, kv + c) += d * q(i, at + c);
                                    }
                                }
                            });
    }
}

}  // namespace mox::inline MOX_ABI::kernel::reference
