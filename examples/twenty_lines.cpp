#include <cstdio>
#include <vector>

#include <mox/mox.hpp>

constexpr mox::attention_spec heads{.width = 64, .heads = 4};

using attn = mox::residual<mox::rms_norm<64>, mox::attention<heads, mox::mask::causal>>;
using moe = mox::moe<mox::experts<8, mox::swiglu<64, 96>>, mox::route::top_k<2>, mox::balance::load<>>;
using block = mox::stack<attn, mox::residual<mox::rms_norm<64>, moe>>;
using mod = mox::depth<block, mox::route::learned, mox::keep_permille<500>>;
using net = mox::stack<mox::embedding<256, 64>, mox::repeat<2, mox::stack<block, mod>>, mox::linear<64, 256>>;

int main() {
    mox::params<net> weights{mox::init::standard, /*seed*/ 7}, grads;
    mox::tape<net> tape;
    mox::adamw<net> adam{{.rate = 2e-3}};
    const std::string text = "the quick brown fox jumps over the lazy dog; ";
    const std::vector<int> ids(text.begin(), text.end() - 1), targets(text.begin() + 1, text.end());
    for (int step = 0; step <= 100; ++step) {
        const auto logits = mox::forward<net>(weights, ids, tape);
        const float loss = mox::cross_entropy(logits, targets, tape.output_grad()) + tape.aux_loss();
        mox::backward<net>(weights, tape, grads);
        adam.step(weights, grads);
        if (step % 20 == 0) std::printf("step %3d  loss %.3f\n", step, static_cast<double>(loss));
    }
    const auto stats = tape.stats<moe>();
    for (const auto n : stats.tokens_per_expert) std::printf("%lld ", static_cast<long long>(n));
    std::printf("tokens per expert\n");
}
