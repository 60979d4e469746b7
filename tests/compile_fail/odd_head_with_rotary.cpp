// EXPECT: mox::attention: rotary positions need an even head size
#include <mox/layer/attention.hpp>

#ifdef MOX_CORRECT
constexpr mox::attention_spec heads{.width = 15, .heads = 5, .rotary = false};
#else
constexpr mox::attention_spec heads{.width = 15, .heads = 5};
#endif

static_assert(mox::attention<heads>::head_dim == 3);
