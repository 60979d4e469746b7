#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include <mox/core/buffer.hpp>
#include <mox/core/error.hpp>
#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/softmax.hpp>

namespace mox::inline MOX_ABI {

/// Targets with this value are not predicted: no loss, no gradient (padding, prompts).
inline constexpr row_t ignored_target = -1;

/// Mean over the predicted rows of logsumexp(l) - l_target, in nats (divide by ln 2 for bits).
/// logits: rows x classes; targets: one class per row, or ignored_target. dlogits, when not empty, gets
/// (softmax - onehot) / count.
template <class T>
T cross_entropy(matrix_view<const T> logits, std::type_identity_t<std::span<const row_t>> targets,
                std::type_identity_t<matrix_view<T>> dlogits = {}, executor_ref exec = {}) {
    check::size("mox::cross_entropy", "targets", "elements, one per row of logits", logits.rows,
                ssize_of(targets));
    if (dlogits.data) {
        check::size("mox::cross_entropy", "dlogits", "rows, like logits", logits.rows, dlogits.rows);
        check::size("mox::cross_entropy", "dlogits", "columns, like logits", logits.cols, dlogits.cols);
    }
    const row_t* target = targets.data();
    index_t count = 0;
    for (index_t t = 0; t < logits.rows; ++t) {
        if (target[t] == ignored_target) continue;
        check::that(
            target[t] >= 0 && target[t] < logits.cols, "mox::cross_entropy",
            "argument 'targets' must hold classes below the number of columns, or mox::ignored_target");
        ++count;
    }
    if (count == 0) {
        for (index_t t = 0; t < dlogits.rows; ++t) std::fill_n(dlogits.row(t), dlogits.cols, T(0));
        return T(0);
    }
    const T scale = T(1) / static_cast<T>(count);
    // Fixed blocks of rows, added in order: the same sum for any number of threads.
    constexpr index_t least_rows = 64;
    constexpr index_t most_blocks = 256;
    double partial[most_blocks];
    const index_t rows_per_block = std::max(least_rows, divide_up(logits.rows, most_blocks));
    const index_t blocks = divide_up(logits.rows, rows_per_block);
    exec.run(blocks, [&](index_t b) {
        double sum = 0;
        const index_t end = std::min(logits.rows, (b + 1) * rows_per_block);
        for (index_t t = b * rows_per_block; t < end; ++t) {
            const T* l = logits.row(t);
            if (target[t] == ignored_target) {
                if (dlogits.data) std::fill_n(dlogits.row(t), dlogits.cols, T(0));
                continue;
            }
            T lse;
            if (dlogits.data) {
                T* d = dlogits.row(t);
                lse = kernel::softmax_row<T>(l, logits.cols, d);
                for (index_t j = 0; j < logits.cols; ++j) d[j] *= scale;
                d[target[t]] -= scale;
            } else {
                lse = kernel::log_sum_exp_row<T>(l, logits.cols);
            }
            sum += static_cast<double>(lse - l[target[t]]);
        }
        partial[b] = sum;
    });
    double total = 0;
    for (index_t b = 0; b < blocks; ++b) total += partial[b];
    return static_cast<T>(total * static_cast<double>(scale));
}

template <class T>
T cross_entropy(matrix_view<T> logits, std::type_identity_t<std::span<const row_t>> targets,
                std::type_identity_t<matrix_view<T>> dlogits = {}, executor_ref exec = {}) {
    return cross_entropy<T>(matrix_view<const T>(logits), targets, dlogits, exec);
}

}  // namespace mox::inline MOX_ABI
