// EXPECT: mox::depth: this argument is not a depth policy
#include <mox/mox.hpp>

#ifdef MOX_CORRECT
using layer = mox::depth<mox::linear<16, 16>, mox::route::learned, mox::keep_permille<500>>;
#else
using layer =
    mox::depth<mox::linear<16, 16>, mox::route::learned, mox::keep_permille<500>, mox::balance::load<>>;
#endif

static_assert(layer::in == 16);
