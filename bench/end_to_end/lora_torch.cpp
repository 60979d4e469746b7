// Low-rank experts in LibTorch as the first implementations have them: every expert's output at full width
// for every token, weighted and added.

#include <memory>
#include <vector>

#include <torch/torch.h>

#include "support/harness.hpp"

namespace {

constexpr int64_t tokens = 512, width = 1024, expert_count = 8, rank = 8, chosen = 2;

struct torch_experts {
    torch::Tensor x, dy, router;
    std::vector<torch::Tensor> a, b;

    explicit torch_experts(bool training) {
        torch::set_num_threads(1);
        torch::manual_seed(7);
        const auto matrix = [&](int64_t rows, int64_t cols, double deviation) {
            return (torch::randn({rows, cols}) * deviation).requires_grad_(training);
        };
        x = matrix(tokens, width, 1.0);
        dy = torch::randn({tokens, width});
        router = matrix(width, expert_count, 0.02);
        for (int64_t e = 0; e < expert_count; ++e) {
            a.push_back(matrix(width, rank, 0.03));
            b.push_back(matrix(rank, width, 0.03));
        }
    }

    torch::Tensor forward() const {
        const auto [values, indices] = torch::matmul(x, router).topk(chosen, 1);
        const auto gates =
            torch::zeros({tokens, expert_count}).scatter(1, indices, torch::softmax(values, 1));
        auto y = torch::zeros_like(x);
        for (int64_t e = 0; e < expert_count; ++e) {
            const auto out = torch::matmul(torch::matmul(x, a[static_cast<std::size_t>(e)]),
                                           b[static_cast<std::size_t>(e)]);
            y = y + gates.select(1, e).unsqueeze(1) * out;
        }
        return y;
    }

    void infer() {
        const torch::NoGradGuard guard;
        forward();
    }
    void train() {
        for (auto* list : {&a, &b}) {
            for (auto& t : *list) t.mutable_grad().reset();
        }
        x.mutable_grad().reset();
        router.mutable_grad().reset();
        forward().backward(dy);
    }
};

const bool added = [] {
    bench::add_competitor("lora/forward/2_of_8_experts_rank_8",
                          {"libtorch", [] {
                               auto layer = std::make_shared<torch_experts>(false);
                               return [layer] { layer->infer(); };
                           }});
    bench::add_competitor("lora/forward_backward/2_of_8_experts_rank_8",
                          {"libtorch", [] {
                               auto layer = std::make_shared<torch_experts>(true);
                               return [layer] { layer->train(); };
                           }});
    return true;
}();

}  // namespace
