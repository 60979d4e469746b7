#pragma once

// Weights in panels for kernel tests, beside the same numbers as a plain matrix.

#include <algorithm>
#include <cmath>
#include <vector>

#include <mox/core/buffer.hpp>
#include <mox/core/random.hpp>
#include <mox/core/view.hpp>
#include <mox/kernel/panels.hpp>

namespace mox_test {

using mox::index_t;

/// `count` random matrices of rows x cols, behind each other as a panel_stack wants them.
template <class T>
struct panel_matrices {
    index_t count, rows, cols, padded;
    mox::buffer<T> memory;
    std::vector<double> plain;  ///< [count, rows, cols]

    panel_matrices(index_t count_, index_t rows_, index_t cols_, std::uint64_t seed, double scale = 1)
        : count(count_), rows(rows_), cols(cols_), padded(mox::kernel::panel_layout<T>::padded(cols_)),
          memory(count_ * rows_ * padded) {
        const mox::random_stream numbers(seed, 11);
        std::uint64_t next = 0;
        for (index_t m = 0; m < count; ++m) {
            for (index_t k = 0; k < rows; ++k) {
                for (index_t n = 0; n < cols; ++n) {
                    const T v = static_cast<T>(scale * numbers.normal(next++));
                    view(m)(k, n) = v;
                    plain.push_back(static_cast<double>(v));
                }
            }
        }
    }
    mox::kernel::panel_view<T> view(index_t m = 0) {
        return {memory.data() + m * rows * padded, rows, padded};
    }
    double at(index_t m, index_t k, index_t n) const {
        return plain[static_cast<std::size_t>((m * rows + k) * cols + n)];
    }
    /// The numbers as the plain twins of the kernels take them.
    mox::matrix_view<const double> plain_view(index_t m = 0) const {
        return {plain.data() + m * rows * cols, rows, cols};
    }
};

/// Random rows with a distance between them, guards behind the valid columns.
template <class T>
struct guarded_rows {
    static constexpr T guard = T(-1234.5);
    index_t rows, cols, stride;
    std::vector<T> values;

    guarded_rows(index_t rows_, index_t cols_, std::uint64_t seed, double scale = 1)
        : rows(rows_), cols(cols_), stride(cols_ + 3),
          values(static_cast<std::size_t>(rows_ * stride + 1), guard) {
        const mox::random_stream numbers(seed, 12);
        std::uint64_t next = 0;
        for (index_t i = 0; i < rows; ++i) {
            for (index_t j = 0; j < cols; ++j)
                values[static_cast<std::size_t>(i * stride + j)] =
                    static_cast<T>(scale * numbers.normal(next++));
        }
    }
    /// The same numbers in another type.
    template <class U>
    explicit guarded_rows(const guarded_rows<U>& o)
        : rows(o.rows), cols(o.cols), stride(o.stride), values(o.values.begin(), o.values.end()) {}

    mox::matrix_view<T> view() { return {values.data(), rows, cols, stride}; }
    double operator()(index_t i, index_t j) const {
        return static_cast<double>(values[static_cast<std::size_t>(i * stride + j)]);
    }
    bool guards_hold() const {
        for (index_t i = 0; i < rows; ++i) {
            for (index_t j = cols; j < stride; ++j) {
                if (values[static_cast<std::size_t>(i * stride + j)] != guard) return false;
            }
        }
        return values.back() == guard;
    }
};

/// Largest difference from what a plain twin gives, relative to values above 1; huge where there is a NaN.
inline double difference(double a, double b) {
    const double d = std::abs(a - b) / std::max(1.0, std::abs(b));
    return std::isnan(d) ? 1e300 : d;
}
template <class T>
double difference(const guarded_rows<T>& a, const guarded_rows<double>& b) {
    double worst = a.rows == b.rows && a.cols == b.cols ? 0 : 1e300;
    for (index_t i = 0; i < b.rows; ++i) {
        for (index_t j = 0; j < b.cols; ++j) worst = std::max(worst, difference(a(i, j), b(i, j)));
    }
    return worst;
}
template <class T>
double difference(const std::vector<T>& a, const std::vector<double>& b) {
    double worst = a.size() == b.size() ? 0 : 1e300;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
        worst = std::max(worst, difference(static_cast<double>(a[i]), b[i]));
    return worst;
}

}  // namespace mox_test
