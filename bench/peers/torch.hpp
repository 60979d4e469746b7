#pragma once

// What LibTorch's layers share: tensors from mox's numbers, and the comparison of what they arrive at.

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <torch/torch.h>

#include "support/agreement.hpp"
#include "support/harness.hpp"

namespace bench {

/// Numbers as a leaf that may learn. On one thread, like mox's row beside it.
inline torch::Tensor torch_leaf(std::span<const float> values, std::vector<int64_t> shape, bool learns) {
    torch::set_num_threads(1);
    return torch::from_blob(const_cast<float*>(values.data()), shape, torch::kFloat32)
        .clone()
        .requires_grad_(learns);
}

inline void torch_must_agree(const char* what, const torch::Tensor& found, std::span<const float> wanted) {
    const auto flat = found.detach().contiguous();
    must_agree("libtorch", what, {flat.data_ptr<float>(), static_cast<std::size_t>(flat.numel())}, wanted,
               float_bound);
}

/// One of LibTorch's layers as a competitor. Layer: Layer(bool learns), infer(), train(), and check(learns),
/// which compares what the last step has left with mox's results.
template <class Layer>
competitor torch_competitor(bool learns, std::function<std::shared_ptr<Layer>()> make) {
    return {"libtorch", [=] {
                const auto layer = make();
                const auto step = [=] { learns ? layer->train() : layer->infer(); };
                step();
                layer->check(learns);
                return std::function<void()>(step);
            }};
}

}  // namespace bench
