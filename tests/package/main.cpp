#include <cmath>
#include <cstdio>

#include <mox/mox.hpp>

constexpr mox::attention_spec heads{.width = 16, .heads = 2};

using attn = mox::residual<mox::rms_norm<16>, mox::attention<heads, mox::mask::causal>>;
using moe = mox::moe<mox::experts<4, mox::swiglu<16, 24>>, mox::route::top_k<2>, mox::balance::load<>>;
using block = mox::stack<attn, mox::residual<mox::rms_norm<16>, moe>>;
using net = mox::stack<mox::embedding<30, 16>, mox::repeat<2, block>, mox::linear<16, 30>>;

int main() {
    const mox::params<net> weights{mox::init::standard, 7};
    mox::tape<net> tape;
    const int ids[] = {3, 1, 4, 1, 5, 9, 2, 6};
    const auto logits = mox::forward<net>(weights, ids, tape);
    double sum = 0;
    for (mox::index_t t = 0; t < logits.rows; ++t) {
        for (mox::index_t j = 0; j < logits.cols; ++j) sum += std::abs(static_cast<double>(logits(t, j)));
    }
    std::printf("%lld x %lld, mean |logit| %g\n", static_cast<long long>(logits.rows),
                static_cast<long long>(logits.cols), sum / 240);
    return logits.rows == 8 && logits.cols == 30 && std::isfinite(sum) && sum > 0 ? 0 : 1;
}
