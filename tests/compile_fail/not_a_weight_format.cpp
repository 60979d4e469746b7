// EXPECT: mox::with_weights: the second argument must be a weight format, such as mox::weight::bf16, mox::weight::int8<> or mox::weight::int4<>
#include <mox/transform/quantize.hpp>

#ifdef MOX_CORRECT
using layer = mox::with_weights<mox::linear<16, 24>, mox::weight::bf16>;
#else
using layer = mox::with_weights<mox::linear<16, 24>, float>;
#endif

static_assert(layer::in == 16);
