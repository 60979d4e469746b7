// EXPECT: mox: a router has balance::pooled or balance::pooled_soft, and no layer behind it computes that loss: put mox::pooled_load<width, outputs of the router> after the last such router, or use balance::load, a loss of one layer
#include <mox/compose/stack.hpp>
#include <mox/layer/lora_experts.hpp>
#include <mox/layer/pooled_load.hpp>
#include <mox/model/params.hpp>

constexpr mox::adapter_spec rank2{.rank = 2};
using bank = mox::lora_experts<mox::linear<16, 16>, 4, rank2, mox::route::top_k<2>, mox::balance::pooled>;

#ifdef MOX_CORRECT
using net = mox::stack<bank, bank, mox::pooled_load<16, 4>>;
#else
using net = mox::stack<bank, mox::pooled_load<16, 4>, bank>;
#endif

mox::params<net> weights;
