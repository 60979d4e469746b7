#include <mox/route/depth_score.hpp>

#include <cmath>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/gradients.hpp"
#include "../support/layers.hpp"

using namespace mox;
using mox_test::gradients;
using mox_test::normal_numbers;
using mox_test::random_params;

namespace {

// Outputs the scores, so that they can be seen and differentiated.
template <class Score, index_t D>
struct shown {
    static constexpr index_t in = D, out = 1;
    using reads = typename Score::reads;
    using teaches = std::conditional_t<Score::differentiable, reads, leaves<>>;
    static constexpr auto parameters = Score::template parameters<D>;
    static constexpr double flops(double) { return 0; }
    template <class T>
    struct record {
        matrix_view<const T> x;
    };
    template <class T>
    static void forward(context<T>& ctx, param_ref<shown, const T> w, matrix_view<const T> x,
                        matrix_view<T> y) {
        std::vector<T> scores(static_cast<std::size_t>(x.rows));
        Score::template forward<T>(ctx, w.tensors(), x, 0.25, scores.data());
        for (index_t t = 0; t < x.rows; ++t) y(t, 0) = scores[static_cast<std::size_t>(t)];
        ctx.save(record<T>{x});
    }
    template <class T>
    static void backward(context<T>& ctx, param_ref<shown, const T> w, param_ref<shown, T> g,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        const auto r = ctx.template restore<record<T>>();
        for (index_t t = 0; t < dy.rows && ctx.input_gradient; ++t) std::fill_n(dx.row(t), D, T(0));
        if constexpr (Score::differentiable) {
            std::vector<T> dscores;
            for (index_t t = 0; t < dy.rows; ++t) dscores.push_back(dy(t, 0));
            Score::template backward<T>(ctx, w.tensors(), g.tensors(), r.x, dscores.data(),
                                        ctx.input_gradient ? dx : matrix_view<T>{});
        }
    }
};

template <class Score, class Mask>
using after_attention =
    stack<residual<attention<attention_spec{.width = 8, .heads = 2, .kv_heads = 1}, Mask>>, shown<Score, 8>>;

template <class Net>
std::vector<double> scores(const batch& rows, std::uint64_t seed = 1) {
    const auto w = random_params<Net, double>(seed);
    tape<Net, double> t;
    return mox_test::run_forward(w, normal_numbers<double>(rows.rows() * 8, seed), rows, t);
}

}  // namespace

TEST_CASE("depth score: gradients, also through the attention map", "[route][depth_score]") {
    gradcheck_options o;
    o.samples = 40;
    o.may_be_zero = {"0.0.out"};  // the map does not depend on the output weights
    const batch rows = batch::ragged({5, 0, 1, 9});
    gradients<shown<route::learned, 5>>(o, rows);
    gradients<after_attention<route::attention_received_per_query, mask::causal>>(o, rows);
    gradients<after_attention<route::attention_received, mask::causal>>(o, rows);
    // Long enough for several blocks of query rows.
    o.samples = 6;
    gradients<after_attention<route::attention_received, mask::causal>>(o, batch::equal(1, 110));
}

TEST_CASE("depth score: received attention is a mean", "[route][depth_score]") {
    const batch rows = batch::ragged({6, 1, 11});
    const auto full = scores<after_attention<route::attention_received, mask::full>>(rows);
    // All probabilities of a sequence add up to its number of queries, so the scores add up to one.
    const auto sum = [&](const std::vector<double>& v, std::size_t begin, std::size_t end) {
        double s = 0;
        for (std::size_t i = begin; i < end; ++i) s += v[i];
        return s;
    };
    CHECK(sum(full, 0, 6) == Approx(1));
    CHECK(sum(full, 6, 7) == Approx(1));
    CHECK(sum(full, 7, 18) == Approx(1));
    const auto causal = scores<after_attention<route::attention_received, mask::causal>>(rows);
    CHECK(sum(causal, 7, 18) == Approx(1));
    // Every query may see every token of a full mask: both means agree there, and differ by n / (n - i) under
    // a causal one.
    CHECK(mox_test::distance(scores<after_attention<route::attention_received_per_query, mask::full>>(rows),
                             full) < 1e-15);
    const auto fair = scores<after_attention<route::attention_received_per_query, mask::causal>>(rows);
    for (std::size_t i = 0; i < 11; ++i) {
        CHECK(fair[7 + i] == Approx(causal[7 + i] * 11.0 / (11.0 - static_cast<double>(i))).epsilon(1e-12));
    }
}

TEST_CASE("depth score: chance is new in each training step, the same for a seed, and fixed in evaluation",
          "[route][depth_score]") {
    using net = shown<route::random, 8>;
    const batch rows = batch::equal(4, 500);
    const params<net, double> w;
    const std::vector<double> x(static_cast<std::size_t>(rows.rows() * 8));
    tape<net, double> t, u;
    const auto first = mox_test::run_forward(w, x, rows, t), second = mox_test::run_forward(w, x, rows, t);
    CHECK(first != second);
    CHECK(mox_test::run_forward(w, x, rows, u) == first);
    u.set_step(0);
    CHECK(mox_test::run_forward(w, x, rows, u) == first);
    u.set_step(0);
    u.set_seed(5);
    CHECK(mox_test::run_forward(w, x, rows, u) != first);
    CHECK(mox_test::run_infer(w, x, rows, t) == mox_test::run_infer(w, x, rows, t));
    // The share that is positive is the capacity, here 1/4; sequences differ.
    double positive = 0;
    for (const double s : first) {
        CHECK((s >= -0.75 && s < 0.25));
        positive += s > 0 ? 1 : 0;
    }
    CHECK(positive / 2000 == Approx(0.25).margin(0.05));
    CHECK(!std::equal(first.begin(), first.begin() + 500, first.begin() + 500));
}
