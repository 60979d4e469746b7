// EXPECT: mox::merge: the update of this layer depends on the token
#include <mox/layer/adapted_ffn.hpp>
#include <mox/layer/mixlora.hpp>
#include <mox/transform/merge.hpp>

constexpr mox::adapter_spec four{.rank = 4};
#ifdef MOX_CORRECT
using adapted = mox::adapted_ffn<16, 24, mox::activation::silu, mox::with_lora<four>>;
#else
constexpr mox::mixlora_spec experts{.adapter = four};
using adapted = mox::mixlora<16, 24, mox::activation::silu, 4, experts, mox::route::top_k<2>>;
#endif

static_assert(mox::detail::check_mergeable<adapted>());
