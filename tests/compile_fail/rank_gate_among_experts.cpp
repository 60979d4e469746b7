// EXPECT: mox::moe: this argument is not a routing policy
#include <mox/mox.hpp>

constexpr mox::adapter_spec r8{.rank = 8};

#ifdef MOX_CORRECT
using layer = mox::lora_experts<mox::linear<16, 16>, 4, r8, mox::route::top_k<2>>;
#else
using layer =
    mox::lora_experts<mox::linear<16, 16>, 4, r8, mox::route::top_k<2>, mox::rank_gate::sigmoid_top_k<8>>;
#endif

static_assert(layer::in == 16);
