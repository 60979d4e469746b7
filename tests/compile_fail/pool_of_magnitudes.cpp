// EXPECT: mox::load_adapter: a pool has no room for the magnitudes of mox::dora
#include <mox/layer/dora.hpp>
#include <mox/transform/adapter_pool.hpp>

constexpr mox::adapter_spec four{.rank = 4};
using map = mox::linear<16, 24>;
#ifdef MOX_CORRECT
using adapted = mox::lora<map, four>;
#else
using adapted = mox::dora<map, four>;
#endif
using pool = mox::lora_pool<map, mox::pool_spec{.adapters = 2, .ranks = 8}>;

auto* const load = &mox::load_adapter<adapted, pool, float>;
