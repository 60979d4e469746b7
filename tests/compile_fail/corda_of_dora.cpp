// EXPECT: mox::corda_initialise: the layer must be a mox::lora
#include <mox/layer/dora.hpp>
#include <mox/transform/corda.hpp>

constexpr mox::adapter_spec four{.rank = 4};
#ifdef MOX_CORRECT
using adapted = mox::lora<mox::linear<16, 24>, four>;
#else
using adapted = mox::dora<mox::linear<16, 24>, four>;
#endif

void start(mox::params<adapted>& weights, const mox::corda_covariance& inputs) {
    mox::corda_initialise<adapted>(weights, "", inputs, mox::corda_mode::knowledge);
}
