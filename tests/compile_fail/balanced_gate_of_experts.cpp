// EXPECT: mox::rank_gate::balanced: the first argument must be a rank gate
#include <mox/mox.hpp>

constexpr mox::adapter_spec r8{.rank = 8};

#ifdef MOX_CORRECT
using layer = mox::lora<mox::linear<16, 16>, r8, mox::rank_gate::balanced<mox::rank_gate::self_activated<2>>>;
#else
using layer = mox::lora<mox::linear<16, 16>, r8, mox::rank_gate::balanced<mox::gate::softmax>>;
#endif

static_assert(layer::in == 16);
