// EXPECT: mox: the dropout of an adapter must lie in
#include <mox/layer/mixlora.hpp>
#include <mox/route/all.hpp>

#ifdef MOX_CORRECT
constexpr mox::mixlora_spec spec{.adapter = {.rank = 2, .dropout = 0.5}};
#else
constexpr mox::mixlora_spec spec{.adapter = {.rank = 2, .dropout = 1}};
#endif
static_assert(mox::check_layer<mox::mixlora<8, 12, mox::activation::silu, 4, spec, mox::route::top_k<2>>>());
