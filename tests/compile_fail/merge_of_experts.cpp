// EXPECT: mox::merge: experts are chosen token by token
#include <mox/transform/merge.hpp>

constexpr mox::adapter_spec four{.rank = 4};
using plain = mox::linear<16, 24>;
#ifdef MOX_CORRECT
using adapted = mox::lora<plain, four>;
#else
using adapted = mox::lora_experts<plain, 4, four, mox::route::top_k<2>>;
#endif

static_assert(mox::detail::check_mergeable<adapted>());
