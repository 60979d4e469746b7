#pragma once

// The directions in which a matrix is largest: its first left singular vectors, by subspace iteration with a
// small margin (Finding Structure with Randomness, arXiv 0909.4061) and a Jacobi rotation at the end. In
// double, without a library of decompositions.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include <mox/core/error.hpp>
#include <mox/core/random.hpp>
#include <mox/core/view.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

// Rows of `width` values, one after the other.
struct row_set {
    index_t rows, width;
    std::vector<double> values;
    row_set(index_t r, index_t w) : rows(r), width(w), values(static_cast<std::size_t>(r * w)) {}
    double* row(index_t i) { return values.data() + i * width; }
    const double* row(index_t i) const { return values.data() + i * width; }
};

inline double dot(const double* a, const double* b, index_t n) {
    double sum = 0;
    for (index_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}
inline void add_scaled(double factor, const double* from, double* to, index_t n) {
    for (index_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

// Makes the rows orthonormal (Gram and Schmidt, twice). A row that the ones before it hold already becomes a
// unit vector that they do not hold, so that the rows are always a basis.
inline void orthonormalise(row_set& q) {
    index_t spare = 0;
    for (index_t j = 0; j < q.rows; ++j) {
        double* row = q.row(j);
        for (double before = std::sqrt(dot(row, row, q.width));;) {
            for (int pass = 0; pass < 2; ++pass) {
                for (index_t k = 0; k < j; ++k)
                    add_scaled(-dot(q.row(k), row, q.width), q.row(k), row, q.width);
            }
            const double length = std::sqrt(dot(row, row, q.width));
            if (length > 1e-12 * before && length > 0) {
                for (index_t i = 0; i < q.width; ++i) row[i] /= length;
                break;
            }
            std::fill_n(row, q.width, 0.0);
            row[spare++] = 1;
            before = 1;
        }
    }
}

// Eigenvectors of a symmetric matrix as rows, largest eigenvalue first (Jacobi's rotations).
inline row_set eigenvectors(row_set c) {
    const index_t n = c.rows;
    row_set v(n, n);
    for (index_t i = 0; i < n; ++i) v.row(i)[i] = 1;
    // Quadratic at the end: ten rounds are enough for any matrix that has been tried.
    for (int round = 0; round < 30; ++round) {
        double off = 0, all = 0;
        for (index_t i = 0; i < n; ++i) {
            for (index_t j = 0; j < n; ++j) (i == j ? all : off) += c.row(i)[j] * c.row(i)[j];
        }
        if (off <= 1e-30 * all) break;
        for (index_t p = 0; p < n; ++p) {
            for (index_t q = p + 1; q < n; ++q) {
                const double cpq = c.row(p)[q];
                if (cpq == 0) continue;
                const double theta = (c.row(q)[q] - c.row(p)[p]) / (2 * cpq);
                const double t = (theta >= 0 ? 1 : -1) / (std::abs(theta) + std::sqrt(theta * theta + 1));
                const double cosine = 1 / std::sqrt(t * t + 1), sine = t * cosine;
                const auto rotate = [&](double& a, double& b) {
                    const double x = a;
                    a = cosine * x - sine * b;
                    b = sine * x + cosine * b;
                };
                for (index_t i = 0; i < n; ++i) rotate(c.row(i)[p], c.row(i)[q]);
                for (index_t i = 0; i < n; ++i) rotate(c.row(p)[i], c.row(q)[i]);
                for (index_t i = 0; i < n; ++i) rotate(v.row(p)[i], v.row(q)[i]);
            }
        }
    }
    std::vector<index_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), index_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](index_t a, index_t b) { return c.row(a)[a] > c.row(b)[b]; });
    row_set sorted(n, n);
    for (index_t i = 0; i < n; ++i) std::copy_n(v.row(order[static_cast<std::size_t>(i)]), n, sorted.row(i));
    return sorted;
}

}  // namespace detail

/// The first `rank` left singular vectors of a matrix, rows x cols, row-major: `rank` rows of `rows` values,
/// orthonormal, largest first, signs free. A matrix of smaller rank has its missing directions filled with
/// any others. Exact up to rounding when rank + 8 reaches `rows` or the rank of the matrix; otherwise each
/// of the `iterations` (8 rows cols rank operations) divides the error by the squared ratio of the singular
/// values `rank` and rank + 9. Throws mox::error for a rank that is not between 1 and `rows`, and for numbers
/// that are not finite.
inline std::vector<double> leading_directions(std::span<const double> matrix, index_t rows, index_t cols,
                                              index_t rank, int iterations = 12) {
    constexpr std::string_view call = "mox::leading_directions";
    check::that(rows > 0 && cols > 0, call, "arguments 'rows' and 'cols' must be positive");
    check::size(call, "matrix", "elements", rows * cols, ssize_of(matrix));
    check::that(rank > 0 && rank <= rows, call, "argument 'rank' must lie between 1 and the number of rows");
    double size = 0;
    for (const double v : matrix) {
        check::that(std::isfinite(v), call, "argument 'matrix' must hold finite numbers");
        size = std::max(size, std::abs(v));
    }
    // One value of about 1, so that no square vanishes.
    std::vector<double> scaled(matrix.begin(), matrix.end());
    if (size > 0) {
        for (double& v : scaled) v /= size;
    }
    const index_t margin = std::min(rows, rank + 8);
    detail::row_set q(margin, rows), w(margin, cols);
    const random_stream numbers(0x6a10, 0);
    for (std::size_t i = 0; i < q.values.size(); ++i) q.values[i] = numbers.normal(i);
    detail::orthonormalise(q);
    const auto times_matrix = [&] {
        std::fill(w.values.begin(), w.values.end(), 0.0);
        for (index_t j = 0; j < margin; ++j) {
            for (index_t i = 0; i < rows; ++i)
                detail::add_scaled(q.row(j)[i], scaled.data() + i * cols, w.row(j), cols);
        }
    };
    for (int i = 0; i < (margin == rows ? 0 : iterations); ++i) {
        times_matrix();
        for (index_t j = 0; j < margin; ++j) {
            for (index_t r = 0; r < rows; ++r)
                q.row(j)[r] = detail::dot(w.row(j), scaled.data() + r * cols, cols);
        }
        detail::orthonormalise(q);
    }
    times_matrix();
    detail::row_set c(margin, margin);
    for (index_t i = 0; i < margin; ++i) {
        for (index_t j = 0; j < margin; ++j) c.row(i)[j] = detail::dot(w.row(i), w.row(j), cols);
    }
    const detail::row_set v = detail::eigenvectors(std::move(c));
    std::vector<double> directions(static_cast<std::size_t>(rank * rows));
    for (index_t r = 0; r < rank; ++r) {
        for (index_t j = 0; j < margin; ++j)
            detail::add_scaled(v.row(r)[j], q.row(j), directions.data() + r * rows, rows);
    }
    return directions;
}

}  // namespace mox::inline MOX_ABI
