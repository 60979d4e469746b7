#pragma once

#include <type_traits>
#include <vector>

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
    // Kept from call to call: one row of each.
    static thread_local std::vector<T> logits, p, q;
    for (std::vector<T>* row : {&logits, &p, &q}) row->resize(static_cast<std::size_t>(student.cols));
    for (index_t t = 0; t < student.rows; ++t) {
        for (index_t j = 0; j < student.cols; ++j) {
            logits[static_cast<std::size_t>(j)] = student(t, j) * inverse;
            q[static_cast<std::size_t>(j)] = teacher(t, j) * inverse;
        }
        const T lse = kernel::softmax_row<T>(logits.data(), student.cols, p.data());
        kernel::softmax_row<T>(q.data(), student.cols, q.data());
        for (index_t j = 0; j < student.cols; ++j) {
            const auto i = static_cast<std::size_t>(j);
            sum += static_cast<double>(q[i] * (lse - logits[i]));
            if (wanted) dstudent(t, j) = scale * (p[i] - q[i]);
        }
    }
    return static_cast<T>(temperature * temperature * sum / static_cast<double>(student.rows));
}

}  // namespace mox::inline MOX_ABI
