// EXPECT: mox::params: the scalar type must be float or double
#include <mox/layer/linear.hpp>
#include <mox/model/params.hpp>

#ifdef MOX_CORRECT
mox::params<mox::linear<4, 4>, double> weights;
#else
mox::params<mox::linear<4, 4>, int> weights;
#endif
