#include <mox/mox.hpp>

using net = mox::stack<mox::rms_norm<8>, mox::linear<8, 4>>;

double other_unit() { return mox::describe<net>().forward_flops; }
