// EXPECT: mox::expert_merger: the network has adapters
#include <mox/layer/adapted_ffn.hpp>
#include <mox/transform/expert_merger.hpp>

constexpr mox::adapter_spec four{.rank = 4};
#ifdef MOX_CORRECT
using adapter = mox::as_they_are;
#else
using adapter = mox::with_lora<four>;
#endif
using net = mox::adapted_ffn<16, 8, mox::activation::silu, adapter>;

mox::expert_merger<net> merger(const mox::params<net>& base) { return {base, {&base}}; }
