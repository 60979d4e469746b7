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
    index_t rows = 0, width = 0;
    std::vector<double> values;
    // Zeros; memory stays.
    void reset(index_t r, index_t w) {
        rows = r;
        width = w;
        values.assign(static_cast<std::size_t>(r * w), 0.0);
    }
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

// Eigenvectors of a symmetric matrix as rows of v (Jacobi's rotations), and which comes when, largest
// eigenvalue first. c becomes diagonal.
inline void eigenvectors(row_set& c, row_set& v, std::vector<index_t>& order) {
    const index_t n = c.rows;
    v.reset(n, n);
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
    order.resize(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), index_t{0});
    std::sort(order.begin(), order.end(), [&](index_t a, index_t b) {
        const double x = c.row(a)[a], y = c.row(b)[b];
        return x != y ? x > y : a < b;
    });
}

}  // namespace detail

/// Looks for the directions in which matrices are largest, one after the other, in memory that is kept: a
/// matrix that is not larger than those before allocates nothing.
class direction_search {
public:
    /// Memory of a matrix, rows x cols, row-major, for the caller to fill before each find.
    std::span<double> matrix(index_t rows, index_t cols) {
        check::that(rows > 0 && cols > 0, call, "arguments 'rows' and 'cols' must be positive");
        matrix_.reset(rows, cols);
        return matrix_.values;
    }

    /// The first `rank` left singular vectors of the matrix: `rank` rows of `rows` values, orthonormal,
    /// largest first, signs free. A matrix of smaller rank has its missing directions filled with any others.
    /// Exact up to rounding when rank + 8 reaches `rows` or the rank of the matrix; otherwise each of the
    /// `iterations` (8 rows cols rank operations) divides the error by the squared ratio of the singular
    /// values `rank` and rank + 9. Throws mox::error for a rank that is not between 1 and `rows`, and for
    /// numbers that are not finite.
    std::span<const double> find(index_t rank, int iterations = 12) {
        const index_t rows = matrix_.rows, cols = matrix_.width, margin = std::min(rows, rank + 8);
        check::that(rank > 0 && rank <= rows, call,
                    "argument 'rank' must lie between 1 and the number of rows");
        double size = 0;
        for (const double v : matrix_.values) {
            check::that(std::isfinite(v), call, "argument 'matrix' must hold finite numbers");
            size = std::max(size, std::abs(v));
        }
        // One value of about 1, so that no square vanishes.
        if (size > 0) {
            for (double& v : matrix_.values) v /= size;
        }
        q_.reset(margin, rows);
        const random_stream numbers(0x6a10, 0);
        for (std::size_t i = 0; i < q_.values.size(); ++i) q_.values[i] = numbers.normal(i);
        detail::orthonormalise(q_);
        const auto times_matrix = [&] {
            w_.reset(margin, cols);
            for (index_t j = 0; j < margin; ++j) {
                for (index_t i = 0; i < rows; ++i)
                    detail::add_scaled(q_.row(j)[i], matrix_.row(i), w_.row(j), cols);
            }
        };
        for (int i = 0; i < (margin == rows ? 0 : iterations); ++i) {
            times_matrix();
            for (index_t j = 0; j < margin; ++j) {
                for (index_t r = 0; r < rows; ++r)
                    q_.row(j)[r] = detail::dot(w_.row(j), matrix_.row(r), cols);
            }
            detail::orthonormalise(q_);
        }
        times_matrix();
        c_.reset(margin, margin);
        for (index_t i = 0; i < margin; ++i) {
            for (index_t j = 0; j < margin; ++j) c_.row(i)[j] = detail::dot(w_.row(i), w_.row(j), cols);
        }
        detail::eigenvectors(c_, v_, order_);
        found_.reset(rank, rows);
        for (index_t r = 0; r < rank; ++r) {
            const double* const v = v_.row(order_[static_cast<std::size_t>(r)]);
            for (index_t j = 0; j < margin; ++j) detail::add_scaled(v[j], q_.row(j), found_.row(r), rows);
        }
        return found_.values;
    }

private:
    static constexpr std::string_view call = "mox::leading_directions";

    detail::row_set matrix_, q_, w_, c_, v_, found_;
    std::vector<index_t> order_;
};

/// The same of one matrix, rows x cols, row-major.
inline std::vector<double> leading_directions(std::span<const double> matrix, index_t rows, index_t cols,
                                              index_t rank, int iterations = 12) {
    direction_search search;
    const std::span<double> copy = search.matrix(rows, cols);
    check::size("mox::leading_directions", "matrix", "elements", ssize_of(copy), ssize_of(matrix));
    std::copy(matrix.begin(), matrix.end(), copy.begin());
    const auto found = search.find(rank, iterations);
    return {found.begin(), found.end()};
}

}  // namespace mox::inline MOX_ABI
