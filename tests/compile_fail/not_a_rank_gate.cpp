// EXPECT: mox::lora: the gate must be a rank gate
#include <mox/layer/linear.hpp>
#include <mox/layer/lora.hpp>

constexpr mox::adapter_spec four{.rank = 4};
struct my_gate {};

#ifdef MOX_CORRECT
using layer = mox::lora<mox::linear<16, 24>, four, mox::rank_gate::strongest<2>>;
#else
using layer = mox::lora<mox::linear<16, 24>, four, my_gate>;
#endif

static_assert(layer::in == 16);
