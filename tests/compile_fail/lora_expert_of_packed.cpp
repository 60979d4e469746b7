// EXPECT: mox::lora_expert: the expert must be mox::swiglu, mox::gated_ffn or mox::mlp
#include <mox/layer/lora_expert.hpp>
#include <mox/layer/moe.hpp>
#include <mox/layer/packed_ffn.hpp>

constexpr mox::adapter_spec four{.rank = 4};
#ifdef MOX_CORRECT
using expert = mox::swiglu<16, 24>;
#else
using expert = mox::swiglu<16, 24, mox::weight::int8<>>;
#endif

static_assert(mox::lora_expert<expert, four>::in == 16);
