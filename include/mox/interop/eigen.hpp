#pragma once

// Eigen at the border: views of mox as Eigen maps. The other way needs nothing, a row-major Eigen matrix or
// map converts to matrix_view by itself.

#include <Eigen/Core>

#include <mox/core/view.hpp>

namespace mox::inline MOX_ABI {

/// A row-major Eigen matrix: rows are tokens.
template <class T>
using eigen_matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// A view as an Eigen map, without a copy. Alignment is not assumed.
template <class T>
auto as_eigen(matrix_view<T> m) {
    using matrix = eigen_matrix<std::remove_const_t<T>>;
    using mapped = std::conditional_t<std::is_const_v<T>, const matrix, matrix>;
    return Eigen::Map<mapped, Eigen::Unaligned, Eigen::OuterStride<>>(m.data, m.rows, m.cols,
                                                                      Eigen::OuterStride<>(m.stride));
}

}  // namespace mox::inline MOX_ABI
