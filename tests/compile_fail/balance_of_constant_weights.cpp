// EXPECT: mox::rank_gate::balanced: the gate must have weights that a loss can teach, such as mox::rank_gate::self_activated<8> or mox::rank_gate::sigmoid_top_k<8>
#include <mox/layer/linear.hpp>
#include <mox/layer/lora.hpp>
#include <mox/model/params.hpp>

constexpr mox::adapter_spec rank4{.rank = 4};
#ifdef MOX_CORRECT
using gate = mox::rank_gate::balanced<mox::rank_gate::self_activated<2>>;
#else
using gate = mox::rank_gate::balanced<mox::rank_gate::strongest<2>>;
#endif

static_assert(gate::routed);
mox::params<mox::lora<mox::linear<16, 16>, rank4, gate>> weights;
