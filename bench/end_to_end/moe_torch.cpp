// The same layer in LibTorch: a loop over experts with index_select and index_add, as CPU users write it.

#include <memory>
#include <vector>

#include <torch/torch.h>

#include "support/harness.hpp"

namespace {

constexpr int64_t tokens = 512, width = 512, hidden = 1024, expert_count = 8, chosen = 2;

struct torch_layer {
    torch::Tensor x, dy, router;
    std::vector<torch::Tensor> gate, up, down;

    explicit torch_layer(bool training) {
        torch::set_num_threads(1);
        torch::manual_seed(7);
        const auto matrix = [&](int64_t rows, int64_t cols, double deviation) {
            return (torch::randn({rows, cols}) * deviation).requires_grad_(training);
        };
        x = matrix(tokens, width, 1.0);
        dy = torch::randn({tokens, width});
        router = matrix(width, expert_count, 0.02);
        for (int64_t e = 0; e < expert_count; ++e) {
            gate.push_back(matrix(width, hidden, 0.044));
            up.push_back(matrix(width, hidden, 0.044));
            down.push_back(matrix(hidden, width, 0.031));
        }
    }

    torch::Tensor forward() const {
        const auto logits = torch::matmul(x, router);
        const auto [values, indices] = logits.topk(chosen, 1);
        const auto gates = torch::softmax(values, 1);
        auto y = torch::zeros_like(x);
        for (int64_t e = 0; e < expert_count; ++e) {
            const auto where = (indices == e).nonzero();
            const auto token = where.select(1, 0);
            const auto slot = where.select(1, 1);
            const auto rows = x.index_select(0, token);
            const auto h = torch::silu(torch::matmul(rows, gate[e])) * torch::matmul(rows, up[e]);
            const auto weight = gates.index({token, slot}).unsqueeze(1);
            y = y.index_add(0, token, torch::matmul(h, down[e]) * weight);
        }
        return y;
    }

    void infer() {
        const torch::NoGradGuard guard;
        forward();
    }
    void train() {
        for (auto* list : {&gate, &up, &down}) {
            for (auto& t : *list) t.mutable_grad().reset();
        }
        x.mutable_grad().reset();
        router.mutable_grad().reset();
        forward().backward(dy);
    }
};

const bool added = [] {
    const std::string shape = "T512_D512_H1024_E8_k2";
    bench::add_competitor("moe_swiglu/forward/" + shape, {"libtorch", [] {
                                                              auto layer =
                                                                  std::make_shared<torch_layer>(false);
                                                              return [layer] { layer->infer(); };
                                                          }});
    bench::add_competitor("moe_swiglu/forward_backward/" + shape,
                          {"libtorch", [] {
                               auto layer = std::make_shared<torch_layer>(true);
                               return [layer] { layer->train(); };
                           }});
    return true;
}();

}  // namespace
