// EXPECT: a gate that teaches the rank activations must read them
#include <mox/layer/linear.hpp>
#include <mox/layer/lora.hpp>

constexpr mox::adapter_spec four{.rank = 4};

struct blind : mox::rank_gate::self_activated<2> {
#ifndef MOX_CORRECT
    static constexpr bool reads_activations = false;
#endif
};

using layer = mox::lora<mox::linear<16, 24>, four, blind>;

static_assert(layer::in == 16);
