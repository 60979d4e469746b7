// EXPECT: this argument is not a routing policy
#include <mox/layer/mixlora.hpp>
#include <mox/route/top_k.hpp>

constexpr mox::mixlora_spec around{.adapter = {.rank = 4}};
struct my_idea {};
#ifdef MOX_CORRECT
using layer = mox::mixlora<16, 24, mox::activation::silu, 4, around, mox::route::top_k<2>>;
#else
using layer = mox::mixlora<16, 24, mox::activation::silu, 4, around, mox::route::top_k<2>, my_idea>;
#endif

static_assert(layer::in == 16);
constexpr auto flops = layer::flops(1);
