// EXPECT: mox::projected_adamw: the network has no blocks whose gradients could be projected: blocks are the repetitions of mox::repeat, and mox::adamw trains a network without
#include <mox/compose/repeat.hpp>
#include <mox/layer/linear.hpp>
#include <mox/train/projected_adamw.hpp>

#ifdef MOX_CORRECT
using net = mox::repeat<2, mox::linear<16, 16>>;
#else
using net = mox::linear<16, 16>;
#endif

mox::projected_adamw<net> optimiser;
