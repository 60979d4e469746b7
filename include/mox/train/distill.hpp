#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include <mox/core/error.hpp>
#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/softmax.hpp>

namespace mox::inline MOX_ABI {

/// T^2 mean over the rows of the cross-entropy between softmax(teacher / T) and softmax(student / T), in nats
/// (Distilling the Knowledge in a Neural Network, arXiv 1503.02531). The teacher is constant. student,
/// teacher: rows x classes. dstudent, when not empty, gets T (softmax(student / T) - softmax(teacher / T)) /
/// rows.
template <class T>
T distill(std::type_identity_t<matrix_view<const T>> student,
          std::type_identity_t<matrix_view<const T>> teacher, double temperature, matrix_view<T> dstudent) {
    check::that(temperature > 0, "mox::distill", "argument 'temperature' must be positive");
    check::size("mox::distill", "teacher", "rows, like student", student.rows, teacher.rows);
    check::size("mox::distill", "teacher", "columns, like student", student.cols, teacher.cols);
    const bool wanted = dstudent.data != nullptr;
    if (wanted) {
        check::size("mox::distill", "dstudent", "rows, like student", student.rows, dstudent.rows);
        check::size("mox::distill", "dstudent", "columns, like student", student.cols, dstudent.cols);
    }
    if (student.rows == 0) return T(0);
    const T inverse = static_cast<T>(1 / temperature);
    const T scale = static_cast<T>(temperature / static_cast<double>(student.rows));
    double sum = 0;
    // Blocks of classes, so that no memory is needed for a row.
    constexpr index_t block = 256;
    T logits[block], p[block], q[block];
    const auto read = [&](matrix_view<const T> of, index_t t, index_t from) {
        const index_t n = std::min(block, of.cols - from);
        for (index_t j = 0; j < n; ++j) logits[j] = of(t, from + j) * inverse;
        return n;
    };
    const auto log_sum_exp = [&](matrix_view<const T> of, index_t t) {
        T all = kernel::log_sum_exp_row<T>(logits, read(of, t, 0));
        for (index_t from = block; from < of.cols; from += block) {
            const T next = kernel::log_sum_exp_row<T>(logits, read(of, t, from)), high = std::max(all, next);
            all = high + std::log(std::exp(all - high) + std::exp(next - high));
        }
        return all;
    };
    for (index_t t = 0; t < student.rows; ++t) {
        const T lse_q = log_sum_exp(teacher, t), lse_p = log_sum_exp(student, t);
        for (index_t from = 0; from < student.cols; from += block) {
            const index_t n = read(teacher, t, from);
            const T share_q = std::exp(kernel::softmax_row<T>(logits, n, q) - lse_q);
            read(student, t, from);
            const T share_p = std::exp(kernel::softmax_row<T>(logits, n, p) - lse_p);
            for (index_t j = 0; j < n; ++j) {
                const T teaches = share_q * q[j];
                sum += static_cast<double>(teaches * (lse_p - logits[j]));
                if (wanted) dstudent(t, from + j) = scale * (share_p * p[j] - teaches);
            }
        }
    }
    return static_cast<T>(temperature * temperature * sum / static_cast<double>(student.rows));
}

}  // namespace mox::inline MOX_ABI
