#include <mox/train/leading_directions.hpp>

#include <limits>

#include <Eigen/SVD>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using Catch::Matchers::Contains;
using mox_test::normal_numbers;

namespace {

using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Largest entry of the difference of the two projections, and whether the rows are orthonormal.
double distance_of_spaces(const std::vector<double>& got, const matrix& g, index_t rank) {
    const Eigen::Map<const matrix> p(got.data(), rank, g.rows());
    CHECK((p * p.transpose() - matrix::Identity(rank, rank)).cwiseAbs().maxCoeff() < 1e-12);
    const Eigen::JacobiSVD<Eigen::MatrixXd> svd(g, Eigen::ComputeThinU);
    const Eigen::MatrixXd u = svd.matrixU().leftCols(rank);
    return (p.transpose() * p - u * u.transpose()).cwiseAbs().maxCoeff();
}

std::span<const double> values(const matrix& m) { return {m.data(), static_cast<std::size_t>(m.size())}; }

}  // namespace

TEST_CASE("leading_directions: the singular vectors of a decomposition", "[train][galore]") {
    for (const auto& [rows, cols, rank] :
         {std::array<index_t, 3>{6, 9, 2}, {10, 30, 4}, {12, 12, 12}, {1, 4, 1}, {9, 3, 3}}) {
        CAPTURE(rows, cols, rank);
        const auto v = normal_numbers<double>(rows * cols, 5);
        const matrix g = Eigen::Map<const matrix>(v.data(), rows, cols);
        CHECK(distance_of_spaces(leading_directions(v, rows, cols, rank), g, rank) < 1e-10);
    }
    // The largest first: one by one they are the singular vectors.
    const auto v = normal_numbers<double>(6 * 9, 5);
    const auto p = leading_directions(v, 6, 9, 3);
    const Eigen::JacobiSVD<Eigen::MatrixXd> svd(Eigen::Map<const matrix>(v.data(), 6, 9),
                                                Eigen::ComputeThinU);
    for (index_t r = 0; r < 3; ++r)
        CHECK(std::abs(Eigen::Map<const Eigen::VectorXd>(p.data() + 6 * r, 6).dot(svd.matrixU().col(r))) ==
              Approx(1).epsilon(1e-12));
}

TEST_CASE("leading_directions: a large matrix, by iteration", "[train][galore]") {
    // Singular values fall by a factor of 0.8: after 12 iterations 0.8^(9 * 24) is left.
    const auto a = normal_numbers<double>(60 * 60, 1), b = normal_numbers<double>(80 * 80, 2);
    const Eigen::MatrixXd
        u = Eigen::MatrixXd(
            Eigen::HouseholderQR<Eigen::MatrixXd>(Eigen::Map<const matrix>(a.data(), 60, 60)).householderQ()),
        v = Eigen::MatrixXd(
            Eigen::HouseholderQR<Eigen::MatrixXd>(Eigen::Map<const matrix>(b.data(), 80, 80)).householderQ());
    Eigen::MatrixXd s = Eigen::MatrixXd::Zero(60, 80);
    for (index_t i = 0; i < 60; ++i) s(i, i) = 1e-6 * std::pow(0.8, static_cast<double>(i));
    const matrix g = u * s * v.transpose();
    CHECK(distance_of_spaces(leading_directions(values(g), 60, 80, 5), g, 5) < 1e-9);
}

TEST_CASE("leading_directions: small ranks, zeros, and bad input", "[train][galore]") {
    // Rank 1, three directions wanted: the first is its own, all are orthonormal.
    matrix g(8, 4);
    for (index_t i = 0; i < 8; ++i) {
        for (index_t j = 0; j < 4; ++j) g(i, j) = static_cast<double>((i + 1) * (j - 2));
    }
    const auto p = leading_directions(values(g), 8, 4, 3);
    (void)distance_of_spaces(p, g, 3);
    const Eigen::Map<const matrix> m(p.data(), 3, 8);
    CHECK((m.row(0).transpose() * (m.row(0) * g) - g).cwiseAbs().maxCoeff() < 1e-12);
    const std::vector<double> zeros(20, 0.0);
    (void)distance_of_spaces(leading_directions(zeros, 4, 5, 2), matrix::Zero(4, 5), 2);
    CHECK_THROWS_WITH(leading_directions(zeros, 4, 5, 5), Contains("'rank'"));
    CHECK_THROWS_WITH(leading_directions(zeros, 4, 4, 2), Contains("'matrix' must have 16 elements"));
    CHECK_THROWS_WITH(leading_directions(zeros, 0, 5, 2), Contains("must be positive"));
    const std::vector<double> bad(20, std::numeric_limits<double>::quiet_NaN());
    CHECK_THROWS_WITH(leading_directions(bad, 4, 5, 2), Contains("finite"));
}
