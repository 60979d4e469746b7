// EXPECT: mox::merge: the update of this layer depends on the token or on the labels of the batch
#include <mox/layer/lora_pool.hpp>
#include <mox/transform/merge.hpp>

constexpr mox::adapter_spec four{.rank = 4};
using plain = mox::linear<16, 24>;
#ifdef MOX_CORRECT
using adapted = mox::lora<plain, four>;
#else
using adapted = mox::lora_pool<plain, mox::pool_spec{.adapters = 2, .ranks = 8}>;
#endif

static_assert(mox::detail::check_mergeable<adapted>());
