// EXPECT: mox::merge: mox::lora_expert is for the experts of a mixture
#include <mox/transform/merge.hpp>

constexpr mox::adapter_spec four{.rank = 4};
using expert = mox::lora_expert<mox::swiglu<16, 24>, four>;
#ifdef MOX_CORRECT
using adapted = mox::moe<mox::experts<2, expert>, mox::route::top_k<1>>;
#else
using adapted = mox::feed_forward<expert>;
#endif

static_assert(mox::detail::check_mergeable<adapted>());
