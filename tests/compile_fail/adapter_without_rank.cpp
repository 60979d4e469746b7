// EXPECT: mox: an adapter needs a positive rank, such as adapter_spec{.rank = 8}
#include <mox/layer/linear.hpp>
#include <mox/layer/lora.hpp>

constexpr mox::adapter_spec four{.rank = 4};
constexpr mox::adapter_spec none{.alpha = 16};

#ifdef MOX_CORRECT
using layer = mox::lora<mox::linear<16, 24>, four>;
#else
using layer = mox::lora<mox::linear<16, 24>, none>;
#endif

static_assert(layer::in == 16);
