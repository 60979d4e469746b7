// EXPECT: mox: sparse panels are written by params::write, which indexes their values
#include <mox/layer/linear.hpp>
#include <mox/layer/lora.hpp>
#include <mox/model/params.hpp>

constexpr mox::adapter_spec eight{.rank = 8};
using adapted = mox::lora<mox::linear<16, 24>, eight, mox::rank_gate::strongest<2>>;

#ifdef MOX_CORRECT
float first(const mox::params<adapted>& weights) { return weights.ref().panels<0>()(0, 0); }
#else
float first(mox::params<adapted>& weights) { return weights.ref().panels<0>()(0, 0) = 1; }
#endif
