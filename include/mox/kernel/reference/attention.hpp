#pragma once

// The plain twin of attention.hpp: one sequence with the whole map.

#include <vector>

#include <mox/kernel/reference/rows.hpp>

namespace mox::inline MOX_ABI::kernel::reference {

/// out = softmax(scale q k') v for every head; query i sits at key n_k - n_q + i. received, when not null,
/// gets the sum of each column of all maps.
template <class T>
void attention(index_t heads, index_t kv_heads, index_t head_dim, bool causal, T scale,
               matrix_view<const T> q, matrix_view<const T> k, matrix_view<const T> v, matrix_view<T> out,
               T* received) {
    std::vector<T> row(static_cast<std::size_t>(k.rows));
    if (received) std::fill_n(received, k.rows, T(0));
    for (index_t h = 0; h < heads; ++h) {
        const index_t kv = h / (heads / kv_heads) * head_dim;
        for (index_t i = 0; i < q.rows; ++i) {
            const index_t visible = causal ? k.rows - q.rows + i + 1 : k.rows;
            for (index_t j = 0; j < visible; ++j) {
                T score = 0;
                for (index_t c = 0; c < head_dim; ++c) score += q(i, h * head_dim + c) * k(j, kv + c);
                row[static_cast<std::size_t>(j)] = scale * score;
            }
            softmax_row(row.data(), visible, row.data());
            for (index_t c = 0; c < head_dim; ++c) {
                T sum = 0;
                for (index_t j = 0; j < visible; ++j) sum += row[static_cast<std::size_t>(j)] * v(j, kv + c);
                out(i, h * head_dim + c) = sum;
            }
            for (index_t j = 0; received && j < visible; ++j) received[j] += row[static_cast<std::size_t>(j)];
        }
    }
}

}  // namespace mox::inline MOX_ABI::kernel::reference
