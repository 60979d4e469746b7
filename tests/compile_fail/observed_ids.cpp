// EXPECT: mox::observed: whoever gives token ids has seen them
#include <mox/layer/linear.hpp>
#include <mox/layer/observed.hpp>

#ifdef MOX_CORRECT
using shown = mox::observed<mox::linear<4, 3>>;
#else
using shown = mox::observed<mox::embedding<8, 4>>;
#endif

static_assert(shown::out > 0);
