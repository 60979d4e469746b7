// EXPECT: mox::moe: a balance loss counts on another gate
#include <mox/layer/linear.hpp>
#include <mox/layer/lora_experts.hpp>

constexpr mox::adapter_spec four{.rank = 4};
#ifdef MOX_CORRECT
using gate = mox::gate::softmax;
#else
using gate = mox::gate::renormalised;
#endif
using layer = mox::lora_experts<mox::linear<16, 24>, 4, four, mox::route::entropy_broadcast<>, gate,
                                mox::balance::soft_load<>>;

static_assert(layer::in == 16);
