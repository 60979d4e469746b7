// EXPECT: mox::depth: exactly one capacity is needed, such as mox::keep_permille<500>
#include <mox/layer/depth.hpp>
#include <mox/layer/ffn.hpp>

#ifdef MOX_CORRECT
using layer = mox::depth<mox::swiglu<16, 24>, mox::route::learned, mox::keep_permille<500>>;
#else
using layer = mox::depth<mox::swiglu<16, 24>, mox::route::learned>;
#endif

static_assert(layer::in == 16);
