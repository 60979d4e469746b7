#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>

#include <mox/core/error.hpp>
#include <mox/core/view.hpp>

namespace mox::inline MOX_ABI {

/// Mean over the pairs of rows with different rank of -ln sigmoid(r_better - r_worse), in nats: answers to
/// one prompt, compared two by two (InstructGPT, arXiv 2203.02155; DMoERM, arXiv 2403.01197). rewards: rows x
/// 1; ranks: one per row, the smaller the better, equal ones are not compared. drewards, when not empty, gets
/// the gradient. Without a pair both are 0. Throws mox::error on other shapes.
template <class T>
T pairwise_ranking_loss(matrix_view<const T> rewards, std::type_identity_t<std::span<const row_t>> ranks,
                        std::type_identity_t<matrix_view<T>> drewards = {}) {
    constexpr std::string_view call = "mox::pairwise_ranking_loss";
    check::size(call, "rewards", "columns", 1, rewards.cols);
    check::size(call, "ranks", "elements, one per row of rewards", rewards.rows, ssize_of(ranks));
    if (drewards.data) {
        check::size(call, "drewards", "rows, like rewards", rewards.rows, drewards.rows);
        check::size(call, "drewards", "columns, like rewards", rewards.cols, drewards.cols);
        for (index_t i = 0; i < drewards.rows; ++i) drewards(i, 0) = T(0);
    }
    const row_t* rank = ranks.data();
    index_t pairs = 0;
    for (index_t i = 0; i < rewards.rows; ++i) {
        for (index_t j = 0; j < i; ++j) pairs += rank[i] != rank[j];
    }
    if (pairs == 0) return T(0);
    const double scale = 1.0 / static_cast<double>(pairs);
    double sum = 0;
    for (index_t i = 0; i < rewards.rows; ++i) {
        for (index_t j = 0; j < rewards.rows; ++j) {
            if (rank[i] >= rank[j]) continue;
            const double lead = static_cast<double>(rewards(i, 0)) - static_cast<double>(rewards(j, 0));
            // -ln sigmoid(lead), without overflow on either side.
            const double small = std::exp(-std::abs(lead));
            sum += std::max(-lead, 0.0) + std::log1p(small);
            if (drewards.data) {
                const T d = static_cast<T>(scale * (lead > 0 ? small : 1.0) / (1.0 + small));
                drewards(i, 0) -= d;
                drewards(j, 0) += d;
            }
        }
    }
    return static_cast<T>(sum * scale);
}

template <class T>
T pairwise_ranking_loss(matrix_view<T> rewards, std::type_identity_t<std::span<const row_t>> ranks,
                        std::type_identity_t<matrix_view<T>> drewards = {}) {
    return pairwise_ranking_loss<T>(matrix_view<const T>(rewards), ranks, drewards);
}

}  // namespace mox::inline MOX_ABI
