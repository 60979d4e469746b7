#include <mox/route/jitter.hpp>

#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using mox_test::distance;
using mox_test::normal_numbers;
using mox_test::random_params;
using mox_test::run_forward;
using mox_test::run_infer;

namespace {

constexpr adapter_spec rank2{.rank = 2, .alpha = 5};
template <class... Policies>
using bank = lora_experts<linear<7, 9>, 4, rank2, Policies..., route::all, gate::softmax>;
using noisy = bank<route::jitter<coefficient{0.3}>>;
using calm = bank<>;

}  // namespace

TEST_CASE("jitter: gradients, alone and beside dropout", "[route][jitter]") {
    constexpr adapter_spec dropping{.rank = 2, .alpha = 5, .dropout = 0.2};
    constexpr mixlora_spec spec{.adapter = dropping};
    const auto rows = batch::ragged({3, 0, 5});
    CHECK(gradcheck<noisy>({}, rows).passed);
    CHECK(gradcheck<lora_experts<linear<7, 9>, 4, dropping, route::all, gate::softmax,
                                 route::jitter<coefficient{0.3}>>>({}, rows)
              .passed);
    CHECK(
        gradcheck<mixlora<7, 5, activation::silu, 4, spec, route::top_k<2>, route::jitter<coefficient{0.1}>>>(
            {}, rows)
            .passed);
    CHECK(mox_test::same_for_threads<noisy>(batch::ragged({300, 200})));
}

TEST_CASE("jitter: in training only, new in each step, and none without width", "[route][jitter]") {
    const auto w = random_params<noisy, double>(3);
    const auto v = random_params<calm, double>(3);
    const auto x = normal_numbers<double>(8 * 7, 1);
    const auto rows = batch::equal(2, 4);
    tape<noisy, double> t;
    tape<calm, double> u;
    const auto plain = run_forward(v, x, rows, u);
    CHECK(distance(run_infer(w, x, rows, t), plain) < 1e-13);
    const auto first = run_forward(w, x, rows, t), second = run_forward(w, x, rows, t);
    CHECK(distance(first, plain) > 1e-3);
    CHECK(distance(first, second) > 1e-3);
    using still = bank<route::jitter<coefficient{0.0}>>;
    tape<still, double> s;
    CHECK(distance(run_forward(random_params<still, double>(3), x, rows, s), plain) < 1e-13);
}

TEST_CASE("jitter: the scores are those of the input times numbers within the width", "[route][jitter]") {
    // One input: the log of the gates' ratio is x u (R_0 - R_1).
    using one = lora_experts<linear<1, 1>, 2, adapter_spec{.rank = 1}, route::jitter<coefficient{0.25}>,
                             route::all, gate::softmax>;
    params<one, double> w;
    w.write("router", std::vector<double>{1, 0});
    w.write("0.0.weight", std::vector<double>{0});
    const std::vector<double> x(1000, 2.0);
    tape<one, double> t;
    run_forward(w, x, batch::equal(1, 1000), t);
    double low = 9, high = 0, sum = 0;
    for (index_t i = 0; i < 1000; ++i) {
        const double u = std::log(t.routing()[0].gate(i, 0) / t.routing()[0].gate(i, 1)) / 2;
        low = std::min(low, u);
        high = std::max(high, u);
        sum += u / 1000;
    }
    CHECK(low >= 0.75 - 1e-12);
    CHECK(low < 0.76);
    CHECK(high <= 1.25 + 1e-12);
    CHECK(high > 1.24);
    CHECK(sum == Approx(1).margin(0.02));
}
