// EXPECT: mox::moe: the selector chooses more experts than there are
#include <mox/layer/moe.hpp>

#ifdef MOX_CORRECT
using layer = mox::moe<mox::experts<4, mox::swiglu<16, 24>>, mox::route::top_k<4>>;
#else
using layer = mox::moe<mox::experts<4, mox::swiglu<16, 24>>, mox::route::top_k<5>>;
#endif

static_assert(layer::in == 16);
