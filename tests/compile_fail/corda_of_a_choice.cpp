// EXPECT: mox::corda_initialise: the gate must be mox::rank_gate::all
#include <mox/layer/lora.hpp>
#include <mox/transform/corda.hpp>

constexpr mox::adapter_spec four{.rank = 4};
#ifdef MOX_CORRECT
using adapted = mox::lora<mox::linear<16, 24>, four>;
#else
using adapted = mox::lora<mox::linear<16, 24>, four, mox::rank_gate::sigmoid_top_k<2>>;
#endif

void start(mox::params<adapted>& weights, const mox::corda_covariance& inputs) {
    mox::corda_initialise<adapted>(weights, "", inputs, mox::corda_mode::knowledge);
}
