// EXPECT: mox::moe: this argument is not a routing policy
#include <mox/layer/moe.hpp>

struct my_idea {};

#ifdef MOX_CORRECT
using layer = mox::moe<mox::experts<4, mox::swiglu<16, 24>>, mox::route::top_k<2>>;
#else
using layer = mox::moe<mox::experts<4, mox::swiglu<16, 24>>, mox::route::top_k<2>, my_idea>;
#endif

static_assert(layer::in == 16);
