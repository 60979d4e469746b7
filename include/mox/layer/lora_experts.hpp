#pragma once

// Low-rank experts are experts: the router, plan, gates and losses of mox::moe around a frozen layer.

#include <mox/layer/frozen.hpp>
#include <mox/layer/low_rank.hpp>
#include <mox/layer/moe.hpp>
#include <mox/route/all.hpp>
#include <mox/route/soft_balance.hpp>

namespace mox::inline MOX_ABI {

/// A bank of low-rank experts around a frozen layer: y = base(x) + sum over the chosen experts e of
/// g_te s x_t A_e' B_e. The policies are those of mox::moe.
///   MoLA (arXiv 2402.08562)        lora_experts<Base, E, spec, route::uniform_linear_scorer,
///                                  route::top_k<2>, balance::load<coefficient{1e-3}>>
///   LoRAMoE (arXiv 2312.09979)     lora_experts<Base, E, spec, route::uniform_linear_scorer, route::all,
///                                  gate::softmax, balance::localised<>>
///   LLaVA-MoLE (arXiv 2401.16160)  lora_experts<Base, E, spec, route::top_k<1>, gate::one,
///   balance::counts<>>
template <class Base, index_t E, adapter_spec Spec, class... Policies>
using lora_experts = moe<experts<E, low_rank<Base::in, Base::out, Spec>>, shared<frozen<Base>>, Policies...>;

/// Wraps the maps of a layer, each with experts and a router of its own: attention<spec, mask::causal,
/// with_lora_experts<4, r8, route::top_k<2>>>.
template <index_t E, adapter_spec Spec, class... Policies>
struct with_lora_experts {
    template <class L>
    using around = lora_experts<L, E, Spec, Policies...>;
};

}  // namespace mox::inline MOX_ABI
