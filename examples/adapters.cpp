// A trained network, frozen, adapted with low-rank maps, and merged back into one network of the old speed.

#include <cstdio>
#include <vector>

#include <mox/mox.hpp>

constexpr mox::attention_spec heads{.width = 64, .heads = 4};
constexpr mox::adapter_spec r8{.rank = 8, .alpha = 16, .dropout = 0.05};

template <class A>  // A: how the maps are wrapped
using attn = mox::attention<heads, mox::mask::causal, A>;
using dense = mox::stack<mox::linear<32, 64>, attn<mox::as_they_are>, mox::linear<64, 10>>;
using tuned = mox::stack<mox::frozen<mox::linear<32, 64>>, attn<mox::with_lora<r8>>,
                         mox::lora<mox::linear<64, 10>, r8>>;
// Each map of the attention in its own way: q, k, v, out.
using on_q_and_v = mox::with_each<mox::with_lora<r8>, mox::as_frozen, mox::with_lora<r8>, mox::as_frozen>;
using lightly_tuned =
    mox::stack<mox::frozen<mox::linear<32, 64>>, attn<on_q_and_v>, mox::lora<mox::linear<64, 10>, r8>>;

// A mixture, and the same with an update for each map of each expert; its router stays.
template <class Adapter, class First, class Expert, class Last, class... Router>
using mixture_of =
    mox::stack<First, attn<Adapter>,
               mox::residual<mox::moe<mox::experts<4, Expert>, mox::route::top_k<2>, Router...>>, Last>;
using mixture = mixture_of<mox::as_they_are, mox::linear<32, 64>, mox::swiglu<64, 96>, mox::linear<64, 10>>;
using tuned_mixture = mixture_of<mox::with_lora<r8>, mox::frozen<mox::linear<32, 64>>,
                                 mox::lora_expert<mox::swiglu<64, 96>, r8>,
                                 mox::lora<mox::linear<64, 10>, r8>, mox::route::frozen_linear_scorer>;

namespace {

constexpr mox::index_t sequences = 16, length = 24, tokens = sequences * length;

// Sequences whose class at each place depends on the place before: task 0 and task 1 answer differently.
struct task {
    std::vector<float> x;
    std::vector<mox::row_t> classes;
    explicit task(int shift) {
        const mox::random_stream numbers(5, 0);
        std::vector<mox::row_t> symbol;
        for (mox::index_t t = 0; t < tokens; ++t) {
            symbol.push_back(static_cast<mox::row_t>(numbers.bits(static_cast<std::uint64_t>(t)) % 10));
            for (mox::index_t j = 0; j < 32; ++j) x.push_back(j % 10 == symbol.back() ? 1.0f : 0.0f);
            const mox::row_t before = t % length == 0 ? 0 : symbol[static_cast<std::size_t>(t - 1)];
            classes.push_back(static_cast<mox::row_t>((before + shift) % 10));
        }
    }
    mox::matrix_view<const float> view() const { return {x.data(), tokens, 32}; }
};

template <class Net>
float train(mox::params<Net>& weights, const task& data, int steps) {
    mox::params<Net> grads;
    mox::tape<Net> tape;
    mox::adamw<Net> adam{{.rate = 3e-3, .decay = 0}};
    const auto rows = mox::batch::equal(sequences, length);
    float loss = 0;
    for (int i = 0; i < steps; ++i) {
        const auto logits = mox::forward<Net>(weights, data.view(), rows, tape);
        loss = mox::cross_entropy<float>(logits, data.classes, tape.output_grad());
        mox::backward<Net>(weights, tape, grads);
        adam.step(weights, grads);
    }
    return loss;
}

template <class Net>
float loss_of(const mox::params<Net>& weights, const task& data) {
    mox::tape<Net> tape;
    const auto logits = mox::infer<Net>(weights, data.view(), mox::batch::equal(sequences, length), tape);
    std::vector<float> gradient(static_cast<std::size_t>(tokens * 10));
    return mox::cross_entropy<float>(logits, data.classes,
                                     mox::matrix_view<float>(gradient.data(), tokens, 10));
}

}  // namespace

int main() {
    const task first(0), second(3);
    mox::params<dense> trained{mox::init::standard, 1};
    train(trained, first, 150);
    std::printf("dense network: loss %.3f on the first task, %.3f on the second\n",
                static_cast<double>(loss_of(trained, first)), static_cast<double>(loss_of(trained, second)));

    mox::params<tuned> weights{mox::init::standard, 2};
    mox::copy_matching(trained, weights);  // B is zero: the same function as before
    train(weights, second, 150);
    std::printf(
        "adapters:      loss %.3f on the second task, %lld of %lld parameters trained, moments %zu bytes\n",
        static_cast<double>(loss_of(weights, second)),
        static_cast<long long>(mox::params<tuned>::trained_count()),
        static_cast<long long>(mox::params<tuned>::count()), mox::adamw<tuned>().bytes());

    mox::params<lightly_tuned> light{mox::init::standard, 2};
    mox::copy_matching(trained, light);
    train(light, second, 150);
    std::printf("on q and v:    loss %.3f on the second task, %lld parameters trained\n",
                static_cast<double>(loss_of(light, second)),
                static_cast<long long>(mox::params<lightly_tuned>::trained_count()));

    mox::params<dense> merged = trained;
    mox::merge(weights, merged);
    std::printf("merged:        loss %.3f on the second task\n",
                static_cast<double>(loss_of(merged, second)));
    mox::unmerge(weights, merged);
    std::printf("unmerged:      loss %.3f on the first task\n", static_cast<double>(loss_of(merged, first)));

    mox::params<mixture> experts{mox::init::standard, 3};
    train(experts, first, 150);
    mox::params<tuned_mixture> updates{mox::init::standard, 4};
    mox::copy_matching(experts, updates);
    const float before = loss_of(updates, second);
    train(updates, second, 150);
    mox::merge(updates, experts);
    std::printf(
        "mixture:       loss %.3f on the second task, %.3f with %lld of %lld parameters trained and merged\n",
        static_cast<double>(before), static_cast<double>(loss_of(experts, second)),
        static_cast<long long>(mox::params<tuned_mixture>::trained_count()),
        static_cast<long long>(mox::params<tuned_mixture>::count()));
    return loss_of(weights, second) < loss_of(trained, second) && loss_of(experts, second) < before ? 0 : 1;
}
