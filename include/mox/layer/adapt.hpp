#pragma once

// How the linear maps inside a layer are wrapped. Layers that have such maps take one of these types; the
// adapters themselves are in layer/lora.hpp and layer/lora_experts.hpp.

#include <mox/core/config.hpp>

namespace mox::inline MOX_ABI {

/// Trained like everything else.
struct as_they_are {
    template <class L>
    using around = L;
};

}  // namespace mox::inline MOX_ABI
