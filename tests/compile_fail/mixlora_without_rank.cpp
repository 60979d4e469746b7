// EXPECT: mox: an adapter needs a positive rank
#include <mox/layer/mixlora.hpp>
#include <mox/route/all.hpp>

#ifdef MOX_CORRECT
constexpr mox::mixlora_spec spec{.adapter = {.rank = 2}};
#else
constexpr mox::mixlora_spec spec{.adapter = {.rank = 0}};
#endif
static_assert(mox::check_layer<mox::mixlora<8, 12, mox::activation::silu, 4, spec, mox::route::top_k<2>>>());
