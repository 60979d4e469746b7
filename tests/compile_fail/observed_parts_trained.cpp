// EXPECT: mox::with_each: the map is frozen, so a part of it cannot be trained by itself
#include <mox/layer/adapted_parts.hpp>
#include <mox/layer/attention.hpp>
#include <mox/layer/lora.hpp>
#include <mox/layer/observed.hpp>
#include <mox/model/params.hpp>

constexpr mox::attention_spec heads{.width = 16, .heads = 2};
constexpr mox::adapter_spec four{.rank = 4};
using adapter = mox::with_lora<four>;
#ifdef MOX_CORRECT
using first = mox::as_observed<adapter>;
#else
using first = mox::as_observed<>;
#endif
using net = mox::attention<heads, mox::mask::causal, mox::with_each<first, adapter, adapter, adapter>>;

mox::params<net> weights;
