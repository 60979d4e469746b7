// The same layer in LibTorch: a loop over experts with index_select and index_add, as CPU users write it.

#include <memory>
#include <utility>
#include <vector>

#include "peers/torch.hpp"
#include "support/moe_problem.hpp"

namespace {

using namespace bench;

struct torch_layer {
    moe_problem p;
    torch::Tensor x, dy, router, y;
    std::vector<torch::Tensor> gate, up, down;

    torch_layer(moe_problem problem, bool learns) : p(std::move(problem)) {
        const auto [tokens, width, hidden, experts, chosen] = p.shape;
        x = torch_leaf(p.x, {tokens, width}, learns);
        dy = torch_leaf(p.dy, {tokens, width}, false);
        router = torch_leaf(p.router, {width, experts}, learns);
        const auto both = torch_leaf(p.gate_up, {experts, width, 2 * hidden}, false);
        const auto second = torch_leaf(p.down, {experts, hidden, width}, false);
        for (int64_t e = 0; e < experts; ++e) {
            const auto leaf = [&](const torch::Tensor& t) {
                return t.clone().contiguous().requires_grad_(learns);
            };
            gate.push_back(leaf(both[e].narrow(1, 0, hidden).contiguous()));
            up.push_back(leaf(both[e].narrow(1, hidden, hidden).contiguous()));
            down.push_back(leaf(second[e]));
        }
    }

    torch::Tensor forward() const {
        const auto logits = torch::matmul(x, router);
        const auto [values, indices] = logits.topk(p.shape.chosen, 1);
        const auto gates = torch::softmax(values, 1);
        auto sum = torch::zeros_like(x);
        for (std::size_t e = 0; e < gate.size(); ++e) {
            const auto where = (indices == static_cast<int64_t>(e)).nonzero();
            const auto token = where.select(1, 0);
            const auto slot = where.select(1, 1);
            const auto rows = x.index_select(0, token);
            const auto h = torch::silu(torch::matmul(rows, gate[e])) * torch::matmul(rows, up[e]);
            const auto weight = gates.index({token, slot}).unsqueeze(1);
            sum = sum.index_add(0, token, torch::matmul(h, down[e]) * weight);
        }
        return sum;
    }

    void infer() {
        const torch::NoGradGuard guard;
        y = forward();
    }
    void train() {
        for (auto* list : {&gate, &up, &down}) {
            for (auto& t : *list) t.mutable_grad().reset();
        }
        x.mutable_grad().reset();
        router.mutable_grad().reset();
        y = forward();
        y.backward(dy);
    }
    void check(bool learned) const {
        torch_must_agree("a layer's output", y, p.y);
        if (!learned) return;
        std::vector<torch::Tensor> first, second;
        for (std::size_t e = 0; e < gate.size(); ++e) {
            first.push_back(torch::cat({gate[e].grad(), up[e].grad()}, 1));
            second.push_back(down[e].grad());
        }
        torch_must_agree("the gradient of a layer's input", x.grad(), p.dx);
        torch_must_agree("the gradient of a router", router.grad(), p.drouter);
        torch_must_agree("the gradient of gate and up", torch::stack(first), p.dgate_up);
        torch_must_agree("the gradient of down", torch::stack(second), p.ddown);
    }
};

const bool added = [] {
    const moe_shape shape = moe_shapes[0];
    for (const bool learns : {false, true}) {
        add_competitor((learns ? "moe_swiglu/forward_backward/" : "moe_swiglu/forward/") + shape.name(),
                       torch_competitor<torch_layer>(learns, [=] {
                           return std::make_shared<torch_layer>(moe_problems().at(shape.name())(shape),
                                                                learns);
                       }));
    }
    return true;
}();

}  // namespace
