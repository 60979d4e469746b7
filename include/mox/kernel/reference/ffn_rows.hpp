#pragma once

// The plain twins of ffn_rows.hpp: one row, gate and up units apart. Act is one of activation.hpp beside
// this.

#include <mox/kernel/reference/activation.hpp>

namespace mox::inline MOX_ABI::kernel::reference {

/// hidden = act(gate) * up; without up (null), act(gate).
template <class Act, class T>
void gated_row(const T* gate, const T* up, index_t size, T* hidden) {
    for (index_t i = 0; i < size; ++i) hidden[i] = Act::value(gate[i]) * (up ? up[i] : T(1));
}

/// Backward of weight * hidden: dgate and dup from dh, the gradient of the hidden row for weight 1. Returns
/// the gradient of the weight.
template <class Act, class T>
T gated_backward_row(const T* gate, const T* up, const T* dh, index_t size, T weight, T* dgate, T* dup) {
    T dot = 0;
    for (index_t i = 0; i < size; ++i) {
        const T u = up ? up[i] : T(1);
        dgate[i] = weight * dh[i] * u * Act::derivative(gate[i]);
        if (dup) dup[i] = weight * dh[i] * Act::value(gate[i]);
        dot += dh[i] * Act::value(gate[i]) * u;
    }
    return dot;
}

}  // namespace mox::inline MOX_ABI::kernel::reference
