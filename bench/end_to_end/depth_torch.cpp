// The vision transformers of depth.cpp in LibTorch, with its fused attention: dense, and mixture of depths
// with topk, gather and scatter.

#include <cmath>
#include <memory>
#include <vector>

#include <torch/torch.h>

#include "support/depth_networks.hpp"
#include "support/harness.hpp"

namespace {

using namespace bench::depth_networks;

struct torch_block {
    torch::Tensor gain1, shift1, qkv, out, gain2, shift2, up, up_bias, down, down_bias, router;

    explicit torch_block(bool training) {
        const auto make = [&](std::vector<int64_t> shape, double deviation) {
            return (torch::randn(shape) * deviation).requires_grad_(training);
        };
        const double narrow = 1 / std::sqrt(static_cast<double>(width));
        gain1 = torch::ones({width}).requires_grad_(training);
        gain2 = torch::ones({width}).requires_grad_(training);
        shift1 = torch::zeros({width}).requires_grad_(training);
        shift2 = torch::zeros({width}).requires_grad_(training);
        qkv = make({width, 3 * width}, narrow);
        out = make({width, width}, narrow);
        up = make({width, hidden}, narrow);
        up_bias = torch::zeros({hidden}).requires_grad_(training);
        down = make({hidden, width}, 1 / std::sqrt(static_cast<double>(hidden)));
        down_bias = torch::zeros({width}).requires_grad_(training);
        router = make({width, 1}, 0.02);
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
    std::vector<torch_block> blocks;
    torch::Tensor x, dy;
    bool depths;

    torch_network(bool training, bool with_depths) : depths(with_depths) {
        torch::set_num_threads(1);
        torch::manual_seed(7);
        for (int64_t i = 0; i < 2 * pairs; ++i) blocks.emplace_back(training);
        x = torch::randn({sequences, length, width}).requires_grad_(training);
        dy = torch::randn({sequences, length, width});
    }
    torch::Tensor forward() const {
        auto y = x;
        for (std::size_t i = 0; i < blocks.size(); ++i) {
            y = depths && i % 2 == 1 ? blocks[i].sparse(y) : blocks[i].forward(y);
        }
        return y;
    }
    void infer() {
        const torch::NoGradGuard guard;
        forward();
    }
    void train() {
        for (auto& b : blocks) {
            for (auto* t : {&b.gain1, &b.shift1, &b.qkv, &b.out, &b.gain2, &b.shift2, &b.up, &b.up_bias,
                            &b.down, &b.down_bias, &b.router}) {
                t->mutable_grad().reset();
            }
        }
        x.mutable_grad().reset();
        forward().backward(dy);
    }
};

const bool added = [] {
    for (const bool depths : {false, true}) {
        for (const bool training : {false, true}) {
            const std::string name = std::string(depths ? "vit_mod" : "vit_dense") +
                                     (training ? "/forward_backward/" : "/forward/") + shape;
            bench::add_competitor(name, {"libtorch", [depths, training] {
                                             auto net = std::make_shared<torch_network>(training, depths);
                                             return
                                                 [net, training] { training ? net->train() : net->infer(); };
                                         }});
        }
    }
    return true;
}();

}  // namespace
