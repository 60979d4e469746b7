// EXPECT: mox: this argument does not say how it wraps a map
#include <mox/mox.hpp>

constexpr mox::adapter_spec r8{.rank = 8};
constexpr mox::attention_spec heads{.width = 16, .heads = 2};

#ifdef MOX_CORRECT
using layer = mox::attention<heads, mox::mask::causal, mox::with_lora<r8>>;
#else
using layer = mox::attention<heads, mox::mask::causal, mox::lora<mox::linear<16, 16>, r8>>;
#endif

static_assert(layer::out == 16);
