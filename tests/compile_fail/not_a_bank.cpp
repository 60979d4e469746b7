// EXPECT: mox::moe: the first argument must be a bank of experts, such as mox::experts<8, mox::swiglu<256, 512>>
#include <mox/layer/moe.hpp>

#ifdef MOX_CORRECT
using layer = mox::moe<mox::experts<4, mox::swiglu<16, 24>>, mox::route::top_k<2>>;
#else
using layer = mox::moe<mox::swiglu<16, 24>, mox::route::top_k<2>>;
#endif

static_assert(layer::in == 16);
