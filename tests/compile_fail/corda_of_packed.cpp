// EXPECT: mox::corda_initialise: the adapter must be around a mox::linear with weights of full precision
#include <mox/layer/lora.hpp>
#include <mox/transform/corda.hpp>

constexpr mox::adapter_spec four{.rank = 4};
#ifdef MOX_CORRECT
using adapted = mox::lora<mox::linear<16, 24>, four>;
#else
using adapted = mox::lora<mox::linear<16, 24, mox::bias::none, false, mox::weight::int8<>>, four>;
#endif

void start(mox::params<adapted>& weights, const mox::corda_covariance& inputs) {
    mox::corda_initialise<adapted>(weights, "", inputs, mox::corda_mode::knowledge);
}
