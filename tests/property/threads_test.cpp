// No number depends on how many threads computed it.

#include <cstring>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;
using mox::row_t;

constexpr index_t D = 48, V = 70;
constexpr mox::attention_spec heads{.width = D, .heads = 4, .kv_heads = 2};
using attend = mox::residual<mox::rms_norm<D>, mox::attention<heads>>;
using mix =
    mox::residual<mox::layer_norm<D>,
                  mox::moe<mox::experts<6, mox::swiglu<D, 40>>, mox::route::top_k<3>, mox::null_experts<2>,
                           mox::balance::load<>, mox::balance::load_per_sequence<>, mox::balance::z_loss<>,
                           mox::shared<mox::swiglu<D, 16>>>>;
using biased =
    mox::residual<mox::rms_norm<D>,
                  mox::moe<mox::experts<4, mox::mlp<D, 40, mox::activation::gelu, mox::bias::with>>,
                           mox::route::top_k<2>, mox::gate::softmax>>;
using block = mox::stack<attend, mix>;
using net =
    mox::stack<mox::embedding<V, D>,
               mox::repeat<2, mox::stack<block, mox::depth<mox::stack<attend, biased>, mox::route::learned,
                                                           mox::keep_permille<400>>>>,
               mox::depth<block, mox::route::attention_received, mox::keep_permille<300>,
                          mox::weighting::sigmoid, mox::score_gradient::kept>,
               mox::depth<attend, mox::route::random, mox::keep_permille<600>, mox::sampling::predictor<9>>,
               mox::rms_norm<D>, mox::linear<D, V, mox::bias::with>>;

template <class T>
struct history {
    std::vector<T> losses;
    std::vector<double> norms;
    std::vector<values::matrix<T>> logits, inferred;
    std::vector<T> gradients, weights;
};

template <class T>
history<T> train(mox::executor_ref exec) {
    mox::params<net, T> w{mox::init::standard, 31}, g;
    mox::adamw<net, T> optimiser{{.rate = 3e-3}};
    mox::tape<net, T> tape(exec);
    const mox::batch rows = mox::batch::ragged({61, 0, 1, 200, 7, 90});
    history<T> h;
    for (std::uint64_t s = 0; s < 5; ++s) {
        const auto ids = values::ids(rows.rows(), V, s);
        auto targets = values::ids(rows.rows(), V, 50 + s);
        targets[3] = mox::ignored_target;
        const auto logits = mox::forward<net>(w, ids, rows, tape);
        h.logits.push_back(values::copy(logits));
        h.losses.push_back(mox::cross_entropy<T>(logits, targets, tape.output_grad(), exec));
        h.losses.push_back(tape.aux_loss());
        mox::backward<net>(w, tape, g);
        h.gradients.insert(h.gradients.end(), g.flat().begin(), g.flat().end());
        h.norms.push_back(mox::clip_by_global_norm(g, 0.5, exec));
        optimiser.step(w, g, 1.0, exec);
        h.inferred.push_back(values::copy(mox::infer<net>(w, ids, rows, tape)));
    }
    h.weights.assign(w.flat().begin(), w.flat().end());
    return h;
}

// The tasks in reverse order: an executor may run them in any.
struct backwards_executor {
    static index_t concurrency() { return 3; }
    template <class Task>
    void run(index_t n, Task&& task) {
        for (index_t i = n; i-- > 0;) task(i);
    }
};

}  // namespace

TEMPLATE_TEST_CASE("one, two and three threads give the same bits", "[property][threads]", float, double) {
    using T = TestType;
    const auto serial = train<T>({});
    REQUIRE(serial.losses.front() > T(0));
    REQUIRE(serial.losses[0] != serial.losses[2]);
    mox::thread_pool one(1), two(2), three(3);
    backwards_executor backwards;
    int number = 0;
    for (const mox::executor_ref exec : {mox::executor_ref(one), mox::executor_ref(two),
                                         mox::executor_ref(three), mox::executor_ref(backwards)}) {
        INFO("executor " << number++);
        const auto h = train<T>(exec);
        REQUIRE(values::same_bits(h.losses, serial.losses));
        REQUIRE(values::same_bits(h.norms, serial.norms));
        REQUIRE(h.logits == serial.logits);
        REQUIRE(h.inferred == serial.inferred);
        REQUIRE(values::same_bits(h.gradients, serial.gradients));
        REQUIRE(values::same_bits(h.weights, serial.weights));
    }
}

TEST_CASE("decoding does not depend on the threads", "[property][threads]") {
    using causal =
        mox::stack<mox::embedding<V, D>, block,
                   mox::depth<block, mox::route::learned, mox::keep_permille<500>>, mox::linear<D, V>>;
    const mox::params<causal, float> w{mox::init::standard, 3};
    const auto ids = values::ids(40, V, 1);
    const auto run = [&](mox::executor_ref exec) {
        mox::stream<causal, float> s(40, exec);
        std::vector<float> all;
        for (index_t t = 0; t < 40;) {
            const index_t n = t == 0 ? 17 : 1;
            const auto y = mox::decode<causal>(
                w, mox::token_ids(ids).subspan(static_cast<std::size_t>(t), static_cast<std::size_t>(n)), s);
            const auto c = values::copy(y);
            all.insert(all.end(), c.v.begin(), c.v.end());
            t += n;
        }
        return all;
    };
    mox::thread_pool two(2), three(3);
    const auto serial = run({});
    REQUIRE(serial.size() == 40 * V);
    REQUIRE(values::same_bits(run(two), serial));
    REQUIRE(values::same_bits(run(three), serial));
}
