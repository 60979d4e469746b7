// EXPECT: mox::merge: the gate of this adapter depends on the token
#include <mox/transform/merge.hpp>

constexpr mox::adapter_spec four{.rank = 4};
using plain = mox::linear<16, 24>;
#ifdef MOX_CORRECT
using adapted = mox::lora<plain, four>;
#else
using adapted = mox::lora<plain, four, mox::rank_gate::strongest<2>>;
#endif

static_assert(mox::detail::check_mergeable<adapted>());
