// EXPECT: mox::depth: this score has no gradient that could be kept
#include <mox/layer/depth.hpp>
#include <mox/layer/ffn.hpp>

#ifdef MOX_CORRECT
using gradient = mox::score_gradient::cut;
#else
using gradient = mox::score_gradient::kept;
#endif

using layer = mox::depth<mox::swiglu<16, 24>, mox::route::random, mox::keep_permille<500>,
                         mox::weighting::sigmoid, gradient>;
static_assert(layer::in == 16);
