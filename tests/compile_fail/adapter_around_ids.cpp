// EXPECT: a layer of token ids, such as mox::embedding, reads none
#include <mox/mox.hpp>

constexpr mox::adapter_spec r8{.rank = 8};

#ifdef MOX_CORRECT
using layer = mox::lora<mox::linear<16, 16>, r8>;
#else
using layer = mox::lora<mox::embedding<9, 16>, r8>;
#endif

static_assert(layer::out == 16);
