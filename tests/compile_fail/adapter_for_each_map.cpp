// EXPECT: mox::with_each: give an adapter for each map of the layer
#include <mox/layer/adapted_parts.hpp>
#include <mox/layer/attention.hpp>
#include <mox/layer/lora.hpp>

constexpr mox::adapter_spec four{.rank = 4};
constexpr mox::attention_spec heads{.width = 16, .heads = 2};
using on = mox::with_lora<four>;

#ifdef MOX_CORRECT
using layer =
    mox::attention<heads, mox::mask::causal, mox::with_each<on, mox::as_frozen, on, mox::as_frozen>>;
#else
using layer = mox::attention<heads, mox::mask::causal, mox::with_each<on, on, on>>;
#endif

static_assert(layer::in == 16);
