// EXPECT: mox::stack: neighbouring layers do not fit, the output width of one differs from the input width of the next
#include <mox/compose/stack.hpp>
#include <mox/layer/linear.hpp>

#ifdef MOX_CORRECT
using net = mox::stack<mox::linear<16, 24>, mox::linear<24, 8>>;
#else
using net = mox::stack<mox::linear<16, 24>, mox::linear<32, 8>>;
#endif

static_assert(net::in == 16);
