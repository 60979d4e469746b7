// EXPECT: mox: this matrix is column-major
#include <Eigen/Core>

#include <mox/core/view.hpp>

#ifdef MOX_CORRECT
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
#else
using matrix = Eigen::MatrixXf;
#endif

mox::index_t rows(matrix& m) { return mox::matrix_view<float>(m).rows; }
