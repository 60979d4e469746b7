// EXPECT: mox::moe: exactly one selector is needed, such as mox::route::top_k<2>
#include <mox/layer/moe.hpp>

#ifdef MOX_CORRECT
using layer = mox::moe<mox::experts<4, mox::swiglu<16, 24>>, mox::balance::load<>, mox::route::top_k<1>>;
#else
using layer = mox::moe<mox::experts<4, mox::swiglu<16, 24>>, mox::balance::load<>>;
#endif

static_assert(layer::in == 16);
