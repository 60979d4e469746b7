// EXPECT: mox::depth: this score needs the whole sequence and has no causal threshold
#include <mox/layer/depth.hpp>
#include <mox/layer/ffn.hpp>

#ifdef MOX_CORRECT
using rule = mox::sampling::predictor<>;
#else
using rule = mox::sampling::auxiliary_loss<>;
#endif

using layer = mox::depth<mox::swiglu<16, 24>, mox::route::attention_received, mox::keep_permille<500>, rule>;
static_assert(layer::in == 16);
