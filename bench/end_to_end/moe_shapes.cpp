// The mixture-of-experts layer at further shapes, and what it must not pay for: a second thread that waits,
// tokens that all want one expert, experts that are null.

#include <algorithm>

#include <Eigen/Core>

#include <mox/mox.hpp>

#include "support/agreement.hpp"
#include "support/moe_problem.hpp"

namespace {

using bench::index_t;
using bench::steps;

template <index_t D, index_t H, index_t E, index_t K>
using layer = mox::moe<mox::experts<E, mox::swiglu<D, H>>, mox::route::top_k<K>>;

template <index_t D, index_t H, index_t E, index_t K>
void add_shape(std::vector<bench::group>& groups, index_t tokens, double forward, double both,
               double two_threads = 1.9) {
    using net = layer<D, H, E, K>;
    const bench::moe_shape sizes{tokens, D, H, E, K};
    const std::string shape = sizes.name();
    const double flops = sizes.flops();
    bench::moe_problems()[shape] = &bench::solve<net>;
    groups.push_back(
        {"moe_swiglu/forward/" + shape,
         flops,
         bench::limit::fma_f32,
         {{forward, 0, ""}, {.peer = "mox_2_threads", .at_least = two_threads}},
         {{"mox", bench::run(&steps<net>::infer, index_t{1}, index_t{1}, tokens)},
          {"mox_2_threads", bench::run(&steps<net>::infer, index_t{2}, index_t{1}, tokens), 0, 2}}});
    if (both == 0) return;
    groups.push_back(
        {"moe_swiglu/forward_backward/" + shape,
         3 * flops,
         bench::limit::fma_f32,
         {{both, 0, ""}, {.peer = "mox_2_threads", .at_least = two_threads}},
         {{"mox", bench::run(&steps<net>::train, index_t{1}, index_t{1}, tokens)},
          {"mox_2_threads", bench::run(&steps<net>::train, index_t{2}, index_t{1}, tokens), 0, 2}}});
}

// A layer whose routing is prescribed: the first columns of the input are the logits.
template <class Net, index_t Outputs>
struct routed : steps<Net> {
    template <class Logit>
    routed(index_t threads, index_t tokens, Logit&& logit) : steps<Net>(threads, 1, tokens) {
        std::vector<float> router(static_cast<std::size_t>(Net::in * Outputs), 0.0f);
        for (index_t e = 0; e < Outputs; ++e) router[static_cast<std::size_t>(e * Outputs + e)] = 1;
        this->weights.write("router", router);
        for (index_t t = 0; t < tokens; ++t) {
            for (index_t e = 0; e < Outputs; ++e) this->x[t * Net::in + e] = logit(t, e);
        }
    }
};

// Skew: half of all slots go to expert 0, the others are spread evenly; or all are spread evenly.
template <bool Skewed>
struct skewed : routed<layer<512, 1024, 8, 1>, 8> {
    static constexpr index_t tokens = 1024;
    explicit skewed(index_t threads)
        : routed<layer<512, 1024, 8, 1>, 8>(threads, tokens, [](index_t t, index_t e) {
              const index_t wanted = Skewed ? (t % 2 == 0 ? 0 : 1 + t / 2 % 7) : t % 8;
              return e == wanted ? 4.0f : 0.0f;
          }) {}
    void run() { this->infer(); }
    void learn() { this->train(); }
};

// Two true experts a token; with null experts two more slots, which are null.
template <bool Nulls>
using sparse = mox::moe<mox::experts<8, mox::swiglu<512, 1024>>, mox::route::top_k<Nulls ? 4 : 2>,
                        mox::null_experts<Nulls ? 8 : 0>>;
template <bool Nulls>
struct half_null : routed<sparse<Nulls>, Nulls ? 16 : 8> {
    static constexpr index_t tokens = 512;
    half_null()
        : routed < sparse<Nulls>,
    Nulls ? 16 : 8 > (1, tokens, [](index_t t, index_t e) {
                     const index_t a = t % 8,
                                   b = (t / 8 + 1 + t % 8) % 8 == a ? (a + 1) % 8 : (t / 8 + 1 + t % 8) % 8;
                     if (e == a) return 5.0f;
                     if (e == b) return 4.0f;
                     return e == 8 + a ? 3.0f : e == 8 + (a + 1) % 8 ? 2.0f : 0.0f;
                 }) {}
    void run() { this->infer(); }
    void learn() { this->train(); }
};

// Small layers as an engineer writes them with Eigen's fixed sizes, token by token.
template <int D, int H, int E, int K>
struct eigen_fixed {
    using row = Eigen::Matrix<float, 1, D>;
    template <int R, int C>
    using fixed = Eigen::Matrix<float, R, C, Eigen::RowMajor>;
    using rows = Eigen::Matrix<float, Eigen::Dynamic, D, Eigen::RowMajor>;
    using net = layer<D, H, E, K>;

    struct expert {
        fixed<D, H> gate, up;
        fixed<H, D> down;
    };
    std::vector<expert> bank;
    fixed<D, E> router;
    rows x, y;

    explicit eigen_fixed(index_t tokens) {
        const mox::params<net> weights{mox::init::standard, 7};
        const auto r = weights.read("router"), gu = weights.read("gate_up"), d = weights.read("down");
        router = Eigen::Map<const fixed<D, E>>(r.data());
        bank.resize(E);
        for (int e = 0; e < E; ++e) {
            const Eigen::Map<const fixed<D, 2 * H>> both(gu.data() + e * D * 2 * H);
            bank[static_cast<std::size_t>(e)] = {both.template leftCols<H>(), both.template rightCols<H>(),
                                                 Eigen::Map<const fixed<H, D>>(d.data() + e * H * D)};
        }
        const auto values = bench::random_rows(tokens, D, 1);
        x = Eigen::Map<const rows>(values.data(), tokens, D);
        y = x;
        infer_by_token();
        const auto wanted = bench::solve<net>({tokens, D, H, E, K}).y;
        bench::must_agree("eigen_fixed", "a layer's output", {y.data(), wanted.size()}, wanted,
                          bench::float_bound);
    }

    // Calls body(expert, gate) for the chosen experts of a row.
    template <class Logits, class Body>
    static void choose(const Logits& logits, Body&& body) {
        int order[E];
        for (int e = 0; e < E; ++e) order[e] = e;
        std::partial_sort(order, order + K, order + E, [&](int a, int b) { return logits(a) > logits(b); });
        float sum = 0, weight[K];
        for (int j = 0; j < K; ++j) sum += weight[j] = std::exp(logits(order[j]) - logits(order[0]));
        for (int j = 0; j < K; ++j) body(order[j], weight[j] / sum);
    }

    void infer_by_token() {
        using units = Eigen::Matrix<float, 1, H>;
        for (index_t t = 0; t < x.rows(); ++t) {
            const row token = x.row(t);
            const Eigen::Matrix<float, 1, E> logits = token * router;
            row sum = row::Zero();
            choose(logits, [&](int e, float g) {
                const expert& w = bank[static_cast<std::size_t>(e)];
                const units a = token * w.gate;
                const units u = token * w.up;
                const units h = (a.array() / (1.0f + (-a.array()).exp()) * u.array()).matrix();
                sum += g * (h * w.down);
            });
            y.row(t) = sum;
        }
    }
};

template <int D, int H>
void add_small(std::vector<bench::group>& groups) {
    constexpr bench::moe_shape sizes{256, D, H, 4, 2};
    using net = layer<D, H, 4, 2>;
    bench::moe_problems()[sizes.name()] = &bench::solve<net>;
    groups.push_back(
        {"moe_swiglu/small/" + sizes.name(),
         sizes.flops(),
         bench::limit::fma_f32,
         {{.against = 1.5, .peer = "eigen_fixed"}, {.against = 1.2, .peer = "eigen"}},
         {{"mox", bench::run(&steps<net>::infer, index_t{1}, index_t{1}, sizes.tokens)},
          {"eigen_fixed", bench::run(&eigen_fixed<D, H, 4, 2>::infer_by_token, sizes.tokens)},
          {"mox_2_threads", bench::run(&steps<net>::infer, index_t{2}, index_t{1}, sizes.tokens), 0, 2}}});
}

const bench::registration add([](std::vector<bench::group>& groups) {
    add_shape<512, 512, 32, 4>(groups, 2048, 0.87, 0);
    add_shape<256, 512, 8, 2>(groups, 512, 0.87, 0);
    // 16 tokens an expert: a forward pass reads 50 MB of weights in the 1.7 ms that two cores need at their
    // peak, a training step moves 200 MB in 5.2. Two cores read 1.2 times what one reads (measured 29 and 34
    // to 37 GB/s), so memory alone takes 1.4 and 4 to 5.5 ms.
    add_shape<512, 1024, 8, 2>(groups, 64, 0.80, 0.60, 1.5);
    add_small<64, 128>(groups);
    add_small<128, 256>(groups);

    const double flops = 1024 * (6.0 * 512 * 1024 + 2.0 * 512 * 8);
    groups.push_back({"moe_swiglu/skew/half_of_the_tokens_to_one_of_8_experts_2_threads",
                      flops,
                      bench::limit::fma_f32,
                      {{.peer = "balanced", .at_most = 1.05}},
                      {{"mox", bench::run(&skewed<true>::run, index_t{2}), 0, 2},
                       {"balanced", bench::run(&skewed<false>::run, index_t{2}), 0, 2}}});
    groups.push_back({"moe_swiglu/skew/forward_backward_2_threads",
                      3 * flops,
                      bench::limit::fma_f32,
                      {{.peer = "balanced", .at_most = 1.05}},
                      {{"mox", bench::run(&skewed<true>::learn, index_t{2}), 0, 2},
                       {"balanced", bench::run(&skewed<false>::learn, index_t{2}), 0, 2}}});
    groups.push_back({"moe_swiglu/null_experts/half_of_the_slots_null",
                      flops,
                      bench::limit::fma_f32,
                      {{.peer = "true_slots_alone", .at_most = 1.03}},
                      {{"mox", bench::run(&half_null<true>::run)},
                       {"true_slots_alone", bench::run(&half_null<false>::run)}}});
    groups.push_back({"moe_swiglu/null_experts/forward_backward",
                      3 * flops,
                      bench::limit::fma_f32,
                      {{.peer = "true_slots_alone", .at_most = 1.03}},
                      {{"mox", bench::run(&half_null<true>::learn)},
                       {"true_slots_alone", bench::run(&half_null<false>::learn)}}});
});

}  // namespace
