// The vision transformers of depth.cpp in LibTorch, with its fused attention: dense, and mixture of depths
// with topk, gather and scatter.

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "peers/torch.hpp"
#include "support/depth_networks.hpp"
#include "support/solved.hpp"

namespace {

using namespace bench;
using namespace bench::depth_networks;

// A network's numbers in its order, each asked for by name.
struct numbers {
    const solved& p;
    bool learns;
    std::vector<torch::Tensor> taken{};

    torch::Tensor next(const std::string& name, std::vector<int64_t> shape) {
        const solved::tensor& t = p.tensors.at(taken.size());
        if (!t.path.ends_with("." + name)) {
            std::fprintf(stderr, "mox_bench: libtorch's network wants %s, mox's has %s\n", name.c_str(),
                         t.path.c_str());
            std::exit(3);
        }
        taken.push_back(torch_leaf(t.value, std::move(shape), learns));
        return taken.back();
    }
};

struct torch_block {
    torch::Tensor router, gain1, shift1, qkv, out, gain2, shift2, up, down, up_bias, down_bias;

    torch_block(numbers& from, bool routed) {
        if (routed) router = from.next("router", {width, 1});
        gain1 = from.next("gain", {width});
        shift1 = from.next("shift", {width});
        qkv = from.next("qkv", {width, 3 * width});
        out = from.next("out", {width, width});
        gain2 = from.next("gain", {width});
        shift2 = from.next("shift", {width});
        up = from.next("up", {width, hidden});
        down = from.next("down", {hidden, width});
        up_bias = from.next("up_bias", {hidden});
        down_bias = from.next("down_bias", {width});
    }

    torch::Tensor forward(torch::Tensor x) const {
        const int64_t n = x.size(0), t = x.size(1);
        const auto h = torch::layer_norm(x, {width}, gain1, shift1);
        auto parts =
            torch::matmul(h, qkv).view({n, t, 3, head_count, width / head_count}).permute({2, 0, 3, 1, 4});
        const auto mixed = torch::scaled_dot_product_attention(parts[0], parts[1], parts[2]);
        x = x + torch::matmul(mixed.transpose(1, 2).reshape({n, t, width}), out);
        const auto g = torch::layer_norm(x, {width}, gain2, shift2);
        return x + torch::matmul(torch::gelu(torch::matmul(g, up) + up_bias), down) + down_bias;
    }

    // Half of the tokens, by a learned router.
    torch::Tensor sparse(const torch::Tensor& x) const {
        const auto scores = torch::matmul(x, router).squeeze(-1);
        const auto top = std::get<0>(std::get<1>(scores.topk(x.size(1) / 2, 1)).sort(1));
        const auto index = top.unsqueeze(-1).expand({-1, -1, width});
        const auto rows = x.gather(1, index);
        const auto weight = torch::sigmoid(scores.gather(1, top)).unsqueeze(-1);
        return x.scatter_add(1, index, weight * (forward(rows) - rows));
    }
};

struct torch_network {
    solved p;
    bool depths;
    numbers weights;
    std::vector<torch_block> blocks;
    torch::Tensor x, dy, y;

    torch_network(bool learns, bool with_depths)
        : p(solutions().at(with_depths ? "vit_mod" : "vit_dense")()),
          depths(with_depths), weights{p, learns} {
        for (int64_t i = 0; i < 2 * pairs; ++i) blocks.emplace_back(weights, depths && i % 2 == 1);
        x = torch_leaf(p.x, {sequences, length, width}, learns);
        dy = torch_leaf(p.dy, {sequences, length, width}, false);
    }
    torch::Tensor forward() const {
        auto rows = x;
        for (std::size_t i = 0; i < blocks.size(); ++i) {
            rows = depths && i % 2 == 1 ? blocks[i].sparse(rows) : blocks[i].forward(rows);
        }
        return rows;
    }
    void infer() {
        const torch::NoGradGuard guard;
        y = forward();
    }
    void train() {
        for (auto& t : weights.taken) t.mutable_grad().reset();
        x.mutable_grad().reset();
        y = forward();
        y.backward(dy);
    }
    void check(bool learned) const {
        torch_must_agree("a network's output", y, p.y);
        if (!learned) return;
        torch_must_agree("the gradient of a network's input", x.grad(), p.dx);
        for (std::size_t i = 0; i < p.tensors.size(); ++i)
            torch_must_agree(("the gradient of " + p.tensors[i].path).c_str(), weights.taken[i].grad(),
                             p.tensors[i].grad);
    }
};

const bool added = [] {
    for (const bool depths : {false, true}) {
        for (const bool learns : {false, true}) {
            add_competitor(std::string(depths ? "vit_mod" : "vit_dense") +
                               (learns ? "/forward_backward/" : "/forward/") + shape,
                           torch_competitor<torch_network>(
                               learns, [=] { return std::make_shared<torch_network>(learns, depths); }));
        }
    }
    return true;
}();

}  // namespace
