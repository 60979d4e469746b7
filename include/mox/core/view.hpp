#pragma once

// Row-major views: pointer, extents, distance between rows. They never own and never copy.

#include <concepts>
#include <cstddef>
#include <span>
#include <type_traits>

#include <mox/core/config.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

// What a foreign matrix must offer to be viewed: Eigen matrices and maps do.
template <class M>
concept matrix_like = requires(M& m) {
    m.data();
    { m.rows() } -> std::convertible_to<index_t>;
    { m.cols() } -> std::convertible_to<index_t>;
};

template <class M>
constexpr bool declared_column_major() {
    if constexpr (requires { std::remove_cvref_t<M>::IsRowMajor; }) {
        // A one-column vector has no order worth speaking of, but its rows are contiguous only when it is
        // dense; Eigen calls it column-major and stores it like a row-major n x 1 matrix.
        if constexpr (requires { std::remove_cvref_t<M>::ColsAtCompileTime; }) {
            if (std::remove_cvref_t<M>::ColsAtCompileTime == 1) return false;
        }
        return !std::remove_cvref_t<M>::IsRowMajor;
    } else {
        return false;
    }
}

template <class M>
constexpr index_t stride_of(M& m) {
    if constexpr (requires { m.outerStride(); }) {
        if constexpr (requires { std::remove_cvref_t<M>::IsRowMajor; }) {
            if (!std::remove_cvref_t<M>::IsRowMajor) return static_cast<index_t>(m.cols());
        }
        return static_cast<index_t>(m.outerStride());
    } else {
        return static_cast<index_t>(m.cols());
    }
}

}  // namespace detail

/// A row-major matrix of `rows` x `cols`; row i starts at data + i * stride. Rows are tokens.
template <class T>
struct matrix_view {
    T* data = nullptr;
    index_t rows = 0;
    index_t cols = 0;
    index_t stride = 0;

    constexpr matrix_view() = default;
    constexpr matrix_view(T* data_, index_t rows_, index_t cols_) noexcept
        : data(data_), rows(rows_), cols(cols_), stride(cols_) {}
    constexpr matrix_view(T* data_, index_t rows_, index_t cols_, index_t stride_) noexcept
        : data(data_), rows(rows_), cols(cols_), stride(stride_) {}

    /// From a view of mutable elements.
    template <class U>
    requires(std::is_same_v<const U, T>) constexpr matrix_view(const matrix_view<U>& other) noexcept
        : data(other.data), rows(other.rows), cols(other.cols), stride(other.stride) {}

    /// From any matrix with contiguous rows: Eigen::Map, a row-major Eigen matrix, a user's own type.
    template <class M>
    requires(detail::matrix_like<M> && !std::is_same_v<std::remove_cvref_t<M>, matrix_view> &&
             std::convertible_to<decltype(std::declval<M&>().data()), T*>) constexpr matrix_view(M&& m)
        : data(m.data()), rows(static_cast<index_t>(m.rows())), cols(static_cast<index_t>(m.cols())),
          stride(detail::stride_of(m)) {
        static_assert(!detail::declared_column_major<M>(),
                      "mox: this matrix is column-major; mox reads tokens as rows, so declare it row-major "
                      "(Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>)");
        if constexpr (requires { std::remove_cvref_t<M>::InnerStrideAtCompileTime; }) {
            static_assert(std::remove_cvref_t<M>::InnerStrideAtCompileTime == 1,
                          "mox: the rows of this matrix are not contiguous (inner stride is not 1)");
        }
    }

    constexpr T* row(index_t i) const noexcept { return data + i * stride; }
    constexpr T& operator()(index_t i, index_t j) const noexcept { return data[i * stride + j]; }
    constexpr bool empty() const noexcept { return rows == 0 || cols == 0; }
    constexpr bool contiguous() const noexcept { return stride == cols || rows <= 1; }
    constexpr std::span<T> row_span(index_t i) const noexcept {
        return {row(i), static_cast<std::size_t>(cols)};
    }
    /// Rows [begin, begin + count).
    constexpr matrix_view middle_rows(index_t begin, index_t count) const noexcept {
        return {row(begin), count, cols, stride};
    }
    /// Columns [begin, begin + count).
    constexpr matrix_view middle_cols(index_t begin, index_t count) const noexcept {
        return {data + begin, rows, count, stride};
    }
};

template <class T>
using const_matrix_view = matrix_view<const T>;

template <class T>
constexpr index_t ssize_of(std::span<T> s) noexcept {
    return static_cast<index_t>(s.size());
}

}  // namespace mox::inline MOX_ABI
