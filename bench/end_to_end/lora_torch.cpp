// Low-rank experts in LibTorch as the first implementations have them: every expert's output at full width
// for every token, weighted and added.

#include <memory>
#include <string>
#include <vector>

#include "peers/torch.hpp"
#include "support/solved.hpp"

namespace {

using namespace bench;

const std::string problem = "2_of_8_experts_rank_8";
constexpr int64_t tokens = 512, width = 1024, expert_count = 8, rank = 8, chosen = 2;

struct torch_experts {
    solved p = solutions().at("lora/" + problem)();
    torch::Tensor x, dy, router, y;
    std::vector<torch::Tensor> a, b;

    explicit torch_experts(bool learns) {
        x = torch_leaf(p.x, {tokens, width}, learns);
        dy = torch_leaf(p.dy, {tokens, width}, false);
        router = torch_leaf(p.tensors[0].value, {width, expert_count}, learns);
        for (std::size_t e = 0; e < expert_count; ++e) {
            // mox keeps both rank by rank.
            const auto part = [&](std::size_t tensor) {
                return std::span(p.tensors[tensor].value).subspan(e * rank * width, rank * width);
            };
            const auto rows = torch_leaf(part(1), {rank, width}, false);
            a.push_back(rows.t().contiguous().requires_grad_(learns));
            b.push_back(torch_leaf(part(2), {rank, width}, learns));
        }
    }

    torch::Tensor forward() const {
        const auto [values, indices] = torch::matmul(x, router).topk(chosen, 1);
        const auto gates =
            torch::zeros({tokens, expert_count}).scatter(1, indices, torch::softmax(values, 1));
        auto sum = torch::zeros_like(x);
        for (int64_t e = 0; e < expert_count; ++e) {
            const auto out = torch::matmul(torch::matmul(x, a[static_cast<std::size_t>(e)]),
                                           b[static_cast<std::size_t>(e)]);
            sum = sum + gates.select(1, e).unsqueeze(1) * out;
        }
        return sum;
    }

    void infer() {
        const torch::NoGradGuard guard;
        y = forward();
    }
    void train() {
        for (auto* list : {&a, &b}) {
            for (auto& t : *list) t.mutable_grad().reset();
        }
        x.mutable_grad().reset();
        router.mutable_grad().reset();
        y = forward();
        y.backward(dy);
    }
    void check(bool learned) const {
        torch_must_agree("the output of low-rank experts", y, p.y);
        if (!learned) return;
        std::vector<torch::Tensor> da, db;
        for (std::size_t e = 0; e < expert_count; ++e) {
            da.push_back(a[e].grad().t());
            db.push_back(b[e].grad());
        }
        torch_must_agree("the gradient of low-rank experts' input", x.grad(), p.dx);
        torch_must_agree("the gradient of their router", router.grad(), p.tensors[0].grad);
        torch_must_agree("the gradient of A", torch::cat(da), p.tensors[1].grad);
        torch_must_agree("the gradient of B", torch::cat(db), p.tensors[2].grad);
    }
};

const bool added = [] {
    for (const bool learns : {false, true}) {
        add_competitor(
            (learns ? "lora/forward_backward/" : "lora/forward/") + problem,
            torch_competitor<torch_experts>(learns, [=] { return std::make_shared<torch_experts>(learns); }));
    }
    return true;
}();

}  // namespace
