// EXPECT: mox::lora: the gate chooses more ranks than the adapter has
#include <mox/layer/linear.hpp>
#include <mox/layer/lora.hpp>

constexpr mox::adapter_spec four{.rank = 4};

#ifdef MOX_CORRECT
using layer = mox::lora<mox::linear<16, 24>, four, mox::rank_gate::sigmoid_top_k<3>>;
#else
using layer = mox::lora<mox::linear<16, 24>, four, mox::rank_gate::sigmoid_top_k<5>>;
#endif

static_assert(layer::in == 16);
