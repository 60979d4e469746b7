#include <mox/interop/eigen.hpp>

#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;

TEST_CASE("eigen: matrices, maps, blocks and vectors are viewed in place", "[interop][eigen]") {
    eigen_matrix<float> m(3, 4);
    for (index_t i = 0; i < 12; ++i) m.data()[i] = static_cast<float>(i);
    const matrix_view<float> v(m);
    CHECK(v.data == m.data());
    CHECK(v.rows == 3);
    CHECK(v.stride == 4);
    auto block = m.block(1, 1, 2, 2);
    const matrix_view<float> b(block);
    CHECK(b.stride == 4);
    CHECK(b(1, 1) == 10.0f);
    Eigen::VectorXf column(3);
    column << 1, 2, 3;
    const matrix_view<float> c(column);
    CHECK(c.rows == 3);
    CHECK(c.cols == 1);
    CHECK(c(2, 0) == 3.0f);
    const eigen_matrix<float>& constant = m;
    CHECK(matrix_view<const float>(constant)(2, 3) == 11.0f);
}

TEST_CASE("eigen: views become maps without a copy", "[interop][eigen]") {
    std::vector<double> data{1, 2, 0, 3, 4, 0};
    const matrix_view<double> v(data.data(), 2, 2, 3);
    auto map = as_eigen(v);
    CHECK(map.sum() == 10.0);
    map(1, 0) = 7;
    CHECK(data[3] == 7.0);
    CHECK(as_eigen(matrix_view<const double>(v))(1, 1) == 4.0);
}

TEST_CASE("eigen: a network reads Eigen and answers to Eigen", "[interop][eigen]") {
    using net = linear<3, 2>;
    const auto w = mox_test::random_params<net, double>(1);
    const auto weight = w.read("weight");
    eigen_matrix<double> x = eigen_matrix<double>::Random(5, 3);
    const eigen_matrix<double> plain = Eigen::Map<const eigen_matrix<double>>(weight.data(), 3, 2);
    tape<net, double> t;
    const eigen_matrix<double> y = as_eigen(forward<net, double>(w, x, t));
    CHECK((y - x * plain).cwiseAbs().maxCoeff() < 1e-14);
}
