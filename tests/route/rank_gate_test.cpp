#include <mox/route/rank_gate.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/gradients.hpp"
#include "../support/layers.hpp"

using namespace mox;
using Catch::Matchers::Contains;
using mox_test::distance;
using mox_test::gradients;
using mox_test::normal_numbers;
using mox_test::random_params;
using mox_test::run_forward;
using mox_test::run_infer;

namespace {

using base = linear<7, 9>;
constexpr adapter_spec rank6{.rank = 6, .alpha = 9};

template <class Net>
std::vector<double> gates_of(const tape<Net, double>& t) {
    const routing_record& r = t.routing()[0];
    const double* g = static_cast<const double*>(r.gates);
    return {g, g + r.rows * r.slots};
}

}  // namespace

TEST_CASE("sigmoid_top_k: equal scores share evenly, and the weights of a token sum to one",
          "[route][rank_gate]") {
    using all_ranks = lora<base, rank6, rank_gate::sigmoid_top_k<6>>;
    auto w = random_params<all_ranks, double>(4);
    w.write("router", std::vector<double>(42, 0.0));
    w.write("select_bias", std::vector<double>(6, 0.0));
    const auto x = normal_numbers<double>(21, 1);
    tape<all_ranks, double> t;
    run_forward(w, x, batch::equal(1, 3), t);
    for (const double g : gates_of(t)) CHECK(g == Approx(1.0 / 6));

    using some = lora<base, rank6, rank_gate::sigmoid_top_k<3>>;
    const auto v = random_params<some, double>(4);
    tape<some, double> u;
    run_forward(v, x, batch::equal(1, 3), u);
    const auto g = gates_of(u);
    for (std::size_t token = 0; token < 3; ++token)
        CHECK(g[3 * token] + g[3 * token + 1] + g[3 * token + 2] == Approx(1));
}

TEST_CASE("sigmoid_top_k: ties go to the lowest rank", "[route][rank_gate]") {
    using net = lora<base, rank6, rank_gate::sigmoid_top_k<2>>;
    auto w = random_params<net, double>(4);
    w.write("router", std::vector<double>(42, 0.0));
    w.write("select_bias", std::vector<double>{0, 0, 0.5, 0, 0, 0});
    tape<net, double> t;
    run_forward(w, normal_numbers<double>(7, 1), batch::equal(1, 1), t);
    CHECK(t.routing()[0].chosen[0] == 2);
    CHECK(t.routing()[0].chosen[1] == 0);
}

TEST_CASE("sigmoid_top_k: a bias that leaves nothing to divide by is reported", "[route][rank_gate]") {
    using net = lora<base, rank6, rank_gate::sigmoid_top_k<2>>;
    auto w = random_params<net, double>(4);
    w.write("select_bias", std::vector<double>(6, -2.0));
    tape<net, double> t;
    const auto x = normal_numbers<double>(7, 1);
    CHECK_THROWS_WITH(run_forward(w, x, batch::equal(1, 1), t),
                      Contains("selection bias has become so negative"));
}

TEST_CASE("strongest: all ranks chosen is plain lora; the bias only chooses", "[route][rank_gate]") {
    using every = lora<base, rank6, rank_gate::strongest<6>>;
    const auto w = random_params<every, double>(4);
    params<lora<base, rank6>, double> v;
    copy_matching(w, v);
    const auto x = normal_numbers<double>(35, 1);
    tape<every, double> t;
    tape<lora<base, rank6>, double> u;
    CHECK(run_forward(w, x, batch::equal(1, 5), t) == run_forward(v, x, batch::equal(1, 5), u));

    // Magnitude looks at both signs, value at one; scaling x changes no choice without a bias.
    using by_value = lora<base, rank6, rank_gate::strongest<2, rank_gate::key::value>>;
    params<by_value, double> z;
    copy_matching(w, z);
    z.write("select_bias", std::vector<double>(6, 0.0));
    tape<by_value, double> s;
    run_forward(z, x, batch::equal(1, 5), s);
    const std::vector<row_t> chosen(s.routing()[0].chosen, s.routing()[0].chosen + 10);
    std::vector<double> scaled = x;
    for (double& value : scaled) value *= 12.5;
    run_forward(z, scaled, batch::equal(1, 5), s);
    CHECK(std::vector<row_t>(s.routing()[0].chosen, s.routing()[0].chosen + 10) == chosen);

    // Activations 1, -5, 3, -2, 0, 0.5: by magnitude ranks 1 and 2, by value 0 and 2.
    const auto pair = [](auto type) {
        using net = typename decltype(type)::type;
        auto weights = random_params<net, double>(4);
        std::vector<double> a(42, 0.0);
        const double activations[6] = {1, -5, 3, -2, 0, 0.5};
        for (std::size_t r = 0; r < 6; ++r) a[7 * r] = activations[r];
        weights.write("a", a);
        weights.write("select_bias", std::vector<double>(6, 0.0));
        tape<net, double> own;
        run_forward(weights, {1, 0, 0, 0, 0, 0, 0}, batch::equal(1, 1), own);
        return std::vector<row_t>(own.routing()[0].chosen, own.routing()[0].chosen + 2);
    };
    using by_magnitude = lora<base, rank6, rank_gate::strongest<2, rank_gate::key::magnitude>>;
    CHECK(pair(std::type_identity<by_magnitude>{}) == std::vector<row_t>{1, 2});
    CHECK(pair(std::type_identity<by_value>{}) == std::vector<row_t>{0, 2});
}

namespace {
template <index_t K, coefficient Threshold = coefficient{0.2}>
using moram = lora<base, rank6, rank_gate::self_activated<K, coefficient{0.1}, Threshold>>;
}

TEST_CASE("self_activated: scaling a token scales its update and no weight", "[route][rank_gate]") {
    const auto w = random_params<moram<3>, double>(4);
    params<base, double> only;
    copy_matching(w, only);
    const auto x = normal_numbers<double>(35, 1);
    std::vector<double> scaled = x;
    for (double& v : scaled) v *= 4;
    const auto rows = batch::equal(1, 5);
    tape<moram<3>, double> t;
    tape<base, double> u;
    const auto y = run_forward(w, x, rows, t);
    const auto g = gates_of(t);
    const auto z = run_forward(w, scaled, rows, t);
    CHECK(distance(gates_of(t), g) < 1e-12);
    const auto y0 = run_forward(only, x, rows, u), z0 = run_forward(only, scaled, rows, u);
    for (std::size_t i = 0; i < y.size(); ++i)
        CHECK(z[i] - z0[i] == Approx(4 * (y[i] - y0[i])).margin(1e-12));
    for (std::size_t token = 0; token < 5; ++token)
        CHECK(g[3 * token] + g[3 * token + 1] + g[3 * token + 2] == Approx(1));
}

TEST_CASE("self_activated: one rank is all there is, and to reach the threshold is enough",
          "[route][rank_gate]") {
    constexpr adapter_spec rank1{.rank = 1};
    using net = lora<base, rank1, rank_gate::self_activated<3, coefficient{0.1}, coefficient{1.0}>>;
    auto w = random_params<net, double>(4);
    w.write("a", std::vector<double>{1, 0, 0, 0, 0, 0, 0});
    std::vector<double> x(14, 0.0);
    x[0] = 2;
    x[7] = -2;
    tape<net, double> t;
    // Activations of unit length: 1, which reaches the threshold, and -1.
    run_infer(w, x, batch::equal(1, 2), t);
    CHECK(t.routing()[0].slots == 1);
    CHECK(gates_of(t) == std::vector<double>{1, 0});
}

TEST_CASE("rank gates: what nobody states is the papers' choice", "[route][rank_gate]") {
    using c = coefficient;
    STATIC_REQUIRE(std::is_same_v<rank_gate::self_activated<8>,
                                  rank_gate::self_activated<8, c{0.01}, c{0.2}, c{1e-12}>>);
    STATIC_REQUIRE(std::is_same_v<rank_gate::sigmoid_top_k<8>, rank_gate::sigmoid_top_k<8, 1, c{1e-5}>>);
}

TEST_CASE("self_activated: a token of zeros, few ranks, and a threshold nobody reaches",
          "[route][rank_gate]") {
    const auto w = random_params<moram<1>, double>(4);
    tape<moram<1>, double> t;
    const std::vector<double> zeros(7, 0.0);
    const auto y = run_forward(w, zeros, batch::equal(1, 1), t);
    for (const double v : y) CHECK(v == 0.0);
    // At least two ranks, the first ones, evenly.
    CHECK(gates_of(t) == std::vector<double>{0.5, 0.5});
    CHECK(t.routing()[0].chosen[0] == 0);
    CHECK(t.routing()[0].chosen[1] == 1);

    using unreachable = moram<3, coefficient{1.5}>;
    params<unreachable, double> v;
    copy_matching(w, v);
    params<base, double> only;
    copy_matching(w, only);
    tape<unreachable, double> u;
    tape<base, double> s;
    const auto x = normal_numbers<double>(35, 1);
    const auto rows = batch::equal(1, 5);
    CHECK(run_infer(v, x, rows, u) == run_infer(only, x, rows, s));
    // The threshold is for inference.
    CHECK(run_forward(v, x, rows, u) != run_forward(only, x, rows, s));
}

TEST_CASE("self_activated: pruning in training too, with the gradient of what was cut",
          "[route][rank_gate]") {
    using rank_gate::pruning;
    using pruned = rank_gate::self_activated<3, coefficient{0.3}, coefficient{0.45}, coefficient{1e-12},
                                             pruning::always>;
    using later = rank_gate::self_activated<3, coefficient{0.3}, coefficient{0.45}>;
    constexpr adapter_spec rank12{.rank = 12, .alpha = 9}, kept{.rank = 4, .kept_ranks = 3};
    const auto rows = batch::ragged({6, 0, 5});
    gradients<lora<base, rank6, pruned>>(rows);
    gradients<lora<base, rank12, pruned>>(rows);
    gradients<lora<base, kept, rank_gate::balanced<pruned, coefficient{0.5}>>>(rows);
    using net = lora<base, rank12, pruned>;
    using other = lora<base, rank12, later>;
    const auto w = random_params<net, double>(4);
    params<other, double> v;
    copy_matching(w, v);
    const auto x = normal_numbers<double>(77, 1);
    tape<net, double> t;
    tape<other, double> u;
    const auto y = run_forward(w, x, rows, t);
    CHECK(y == run_infer(w, x, rows, t));
    CHECK(y == run_infer(v, x, rows, u));
    CHECK(y != run_forward(v, x, rows, u));
    CHECK(mox_test::same_for_threads<lora<linear<70, 90>, rank12, pruned>>(batch::ragged({300, 200})));
    // A threshold nobody reaches: the base, and nothing to learn.
    using unreached = lora<base, rank12,
                           rank_gate::self_activated<3, coefficient{0.3}, coefficient{1.5},
                                                     coefficient{1e-12}, pruning::always>>;
    params<unreached, double> z, gradient;
    copy_matching(w, z);
    params<base, double> only;
    copy_matching(w, only);
    tape<unreached, double> s;
    tape<base, double> plain;
    CHECK(run_forward(z, x, rows, s) == run_forward(only, x, rows, plain));
    mox_test::run_backward(z, normal_numbers<double>(99, 2), s, gradient);
    for (const double value : gradient.flat()) CHECK(value == 0);
}

TEST_CASE("sigmoid_top_k: its earlier form is a softmax over the chosen, bias included",
          "[route][rank_gate]") {
    using net =
        lora<base, rank6,
             rank_gate::sigmoid_top_k<3, 2, coefficient{0.01}, rank_gate::score_form::softmax_on_selected>>;
    const auto w = random_params<net, double>(4);
    const auto x = normal_numbers<double>(21, 1);
    tape<net, double> t;
    const auto y = run_forward(w, x, batch::equal(1, 3), t);
    const auto r = w.read("router"), bias = w.read("select_bias"), a = w.read("a"), b = w.read("b"),
               base_weight = w.read("0.0.weight");
    for (std::size_t token = 0; token < 3; ++token) {
        std::vector<double> v(6), z(6), gate(6, 0.0);
        for (std::size_t j = 0; j < 6; ++j) {
            v[j] = bias[j];
            for (std::size_t i = 0; i < 7; ++i) {
                v[j] += x[token * 7 + i] * r[i * 3 + j / 2];
                z[j] += x[token * 7 + i] * a[j * 7 + i];
            }
        }
        auto order = v;
        std::sort(order.begin(), order.end());
        double sum = 0;
        for (std::size_t j = 0; j < 6; ++j) {
            if (v[j] >= order[3]) sum += gate[j] = std::exp(v[j]);
        }
        for (std::size_t o = 0; o < 9; ++o) {
            double expected = 0;
            for (std::size_t i = 0; i < 7; ++i) expected += x[token * 7 + i] * base_weight[i * 9 + o];
            // Scaled by alpha, 9, as the sum over the chosen is 1.
            for (std::size_t j = 0; j < 6; ++j) expected += 9 * z[j] * gate[j] / sum * b[j * 9 + o];
            CHECK(y[token * 9 + o] == Approx(expected).margin(1e-12));
        }
    }
}

TEST_CASE("strongest: how many values of the projection are not zero", "[route][rank_gate]") {
    using rank_gate::key;
    using rank_gate::strongest;
    static_assert(strongest<3>::row_values(12, 8) == 4 && strongest<1>::row_values(3, 8) == 1);
    using eighth = strongest<3, key::magnitude, coefficient{1e-3}, coefficient{0.125}>;
    static_assert(eighth::row_values(13, 8) == 1 && eighth::row_values(16, 2) == 2);
    static_assert(strongest<3, key::value, coefficient{1e-3}, coefficient{1.0}>::row_values(13, 8) == 13);
    using net = lora<linear<32, 5>, rank6, eighth>;
    const params<net, double> w(init::standard, 3);
    const auto a = w.read("a");
    for (std::size_t row = 0; row < 6; ++row)
        CHECK(std::count_if(a.begin() + static_cast<std::ptrdiff_t>(32 * row),
                            a.begin() + static_cast<std::ptrdiff_t>(32 * row + 32),
                            [](double v) { return v != 0; }) == 4);
}

TEST_CASE("strongest: scaling a token without bias changes no choice", "[route][rank_gate]") {
    using net = lora<base, rank6, rank_gate::strongest<2>>;
    auto w = random_params<net, double>(4);
    w.write("select_bias", std::vector<double>(6, 0.0));
    auto x = normal_numbers<double>(35, 1);
    tape<net, double> t, u;
    run_forward(w, x, batch::equal(1, 5), t);
    for (double& v : x) v *= 3.5;
    run_forward(w, x, batch::equal(1, 5), u);
    index_t sum = 0;
    for (index_t i = 0; i < 10; ++i) CHECK(t.routing()[0].chosen[i] == u.routing()[0].chosen[i]);
    for (index_t j = 0; j < 6; ++j) sum += t.routing()[0].counts[j];
    CHECK(sum == 10);
}

TEST_CASE("self_activated: the norm is at least the smallest one", "[route][rank_gate]") {
    constexpr adapter_spec unscaled{.rank = 6};
    using net = lora<base, unscaled,
                     rank_gate::self_activated<2, coefficient{0.5}, coefficient{0.0}, coefficient{1e3}>>;
    const auto w = random_params<net, double>(4);
    const auto x = normal_numbers<double>(7, 1);
    tape<net, double> t;
    run_forward(w, x, batch::equal(1, 1), t);
    const auto a = w.read("a");
    std::vector<double> z(6, 0.0);
    for (std::size_t j = 0; j < 6; ++j) {
        for (std::size_t i = 0; i < 7; ++i) z[j] += x[i] * a[j * 7 + i];
    }
    std::sort(z.begin(), z.end());
    // h = z / 1000.
    const auto g = gates_of(t);
    CHECK(g[0] / g[1] == Approx(std::exp((z[5] - z[4]) / 500)));
}

namespace {

constexpr coefficient half{0.5}, always{1.0};
constexpr adapter_spec rank9{.rank = 9, .alpha = 9}, dropping{.rank = 6, .alpha = 9, .dropout = 0.25};
template <coefficient Explore, rank_gate::score_form Form = rank_gate::score_form::softmax_on_selected>
using exploring = rank_gate::sigmoid_top_k<4, 1, coefficient{1e-5}, Form, Explore>;

}  // namespace

TEST_CASE("sigmoid_top_k: exploring draws ranks, each once, and weighs them as always",
          "[route][rank_gate]") {
    using net = lora<base, rank6, exploring<always>>;
    const auto w = random_params<net, double>(4);
    const auto x = normal_numbers<double>(500 * 7, 1);
    tape<net, double> t;
    t.set_seed(3);
    const auto rows = batch::equal(1, 500);
    const auto y = run_forward(w, x, rows, t);
    const routing_record& r = t.routing()[0];
    const auto router = w.read("router"), bias = w.read("select_bias");
    std::vector<index_t> drawn(6, 0);
    index_t missing = 0;
    for (index_t token = 0; token < 500; ++token) {
        double sum = 0, total = 0;
        std::vector<double> v(6);
        std::vector<bool> seen(6, false);
        for (std::size_t j = 0; j < 6; ++j) {
            v[j] = bias[j];
            for (std::size_t i = 0; i < 7; ++i)
                v[j] += x[static_cast<std::size_t>(token) * 7 + i] * router[i * 6 + j];
        }
        for (index_t j = 0; j < 4; ++j) {
            const row_t rank = r.chosen[token * 4 + j];
            if (rank < 0) {
                CHECK(r.gate(token, j) == 0.0);
                ++missing;
                continue;
            }
            const auto at = static_cast<std::size_t>(rank);
            CHECK(!seen[at]);
            seen[at] = true;
            ++drawn[at];
            total += std::exp(v[at]);
        }
        for (index_t j = 0; j < 4; ++j) {
            const row_t rank = r.chosen[token * 4 + j];
            if (rank < 0) continue;
            CHECK(r.gate(token, j) == Approx(std::exp(v[static_cast<std::size_t>(rank)]) / total));
            sum += r.gate(token, j);
        }
        CHECK(sum == Approx(1));
    }
    // A rank is among four draws of six with probability 1 - (5/6)^4: five deviations of 500 tokens.
    const double share = 1 - std::pow(5.0 / 6, 4);
    for (const index_t n : drawn) CHECK(std::abs(static_cast<double>(n) / 500 - share) < 0.112);
    CHECK(std::abs(static_cast<double>(missing) / 500 - (4 - 6 * share)) < 0.2);
    // The same step draws the same, another step and another seed do not, and evaluation never does.
    t.set_step(0);
    CHECK(run_forward(w, x, rows, t) == y);
    CHECK(run_forward(w, x, rows, t) != y);
    t.set_step(0);
    t.set_seed(4);
    CHECK(run_forward(w, x, rows, t) != y);
    using plain = lora<base, rank6, exploring<coefficient{0.0}>>;
    params<plain, double> v;
    copy_matching(w, v);
    tape<plain, double> u;
    CHECK(run_infer(w, x, rows, t) == run_infer(v, x, rows, u));
    CHECK(run_infer(w, x, rows, t) == run_forward(v, x, rows, u));
}

TEST_CASE("sigmoid_top_k: a forward explores as a whole, as often as it is told", "[route][rank_gate]") {
    using net = lora<base, rank6, exploring<half>>;
    using plain = lora<base, rank6, exploring<coefficient{0.0}>>;
    const auto w = random_params<net, double>(4);
    params<plain, double> v;
    copy_matching(w, v);
    const auto x = normal_numbers<double>(50 * 7, 1);
    tape<net, double> t;
    tape<plain, double> u;
    const auto y = run_forward(v, x, batch::equal(1, 50), u);
    index_t explored = 0;
    for (int step = 0; step < 100; ++step) explored += run_forward(w, x, batch::equal(1, 50), t) != y ? 1 : 0;
    CHECK((explored > 30 && explored < 70));  // four deviations
}

TEST_CASE("sigmoid_top_k: gradients while exploring, picked and in full, threads", "[route][rank_gate]") {
    const auto rows = batch::ragged({3, 0, 5});
    gradients<lora<base, rank6, exploring<always>>>(rows);
    // A bias that is always positive: drawn scores may not sum to zero.
    gradients<lora<base, rank6, exploring<always, rank_gate::score_form::sigmoid_sum>>>(rows);
    gradients<lora<base, dropping, exploring<always>>>(rows);
    using picked =
        rank_gate::sigmoid_top_k<2, 1, coefficient{1e-5}, rank_gate::score_form::softmax_on_selected, always>;
    static_assert(lora<base, rank9, picked>::picks && !lora<base, rank6, exploring<always>>::picks);
    gradients<lora<base, rank9, picked>>(rows);
    CHECK(mox_test::same_for_threads<lora<linear<70, 90>, rank9, picked>>(batch::ragged({300, 200})));
    CHECK(mox_test::same_for_threads<lora<linear<70, 90>, dropping, exploring<half>>>(
        batch::ragged({300, 200})));
    // Numbers that layers take, for blocks that are skipped.
    CHECK(draw_count<lora<base, dropping, exploring<half>>>() == 2);
    CHECK(draw_count<lora<base, rank6, exploring<half>>>() == 1);
    CHECK(draw_count<lora<base, rank6, exploring<coefficient{0.0}>>>() == 0);
    CHECK(draw_count<lora_experts<base, 3, rank6, route::top_k<2>>>() == 0);
    CHECK(draw_count<lora_experts<base, 3, dropping, route::jitter<half>, route::top_k<2>>>() == 2);
}

TEST_CASE("balanced: R sum P^2 of the mean weights, in training only", "[route][rank_gate]") {
    using gate = rank_gate::self_activated<3, coefficient{0.3}>;
    constexpr adapter_spec kept{.rank = 4, .kept_ranks = 3};
    using plain = lora<base, kept, gate>;
    using net = lora<base, kept, rank_gate::balanced<gate, coefficient{2.0}>>;
    const auto w = random_params<net, double>(4);
    params<plain, double> v;
    copy_matching(w, v);
    const auto x = normal_numbers<double>(40 * 7, 1);
    tape<net, double> t;
    tape<plain, double> u;
    const auto rows = batch::ragged({15, 0, 25});
    CHECK(run_forward(w, x, rows, t) == run_forward(v, x, rows, u));
    std::vector<double> p(7);
    const routing_record& r = u.routing()[0];
    for (index_t i = 0; i < 40 * 3; ++i)
        p[static_cast<std::size_t>(r.chosen[i])] += r.gate(i / 3, i % 3) / 40;
    double expected = 0;
    for (const double m : p) expected += 2 * 7 * m * m;
    CHECK(t.aux_loss() == Approx(expected).epsilon(1e-12));
    CHECK((t.aux_loss() >= 2 && t.aux_loss() <= 14));
    t.set_aux_scale(0.5);
    run_forward(w, x, rows, t);
    CHECK(t.aux_loss() == Approx(expected / 2).epsilon(1e-12));
    run_infer(w, x, rows, t);
    CHECK(t.aux_loss() == 0);
    run_forward(w, {}, batch::ragged({0}), t);
    CHECK(t.aux_loss() == 0);
    // All weights the same: its smallest value. No activation, so ties: the first ranks take all.
    using every = lora<base, rank6, rank_gate::balanced<rank_gate::self_activated<6>, coefficient{1.0}>>;
    auto z = random_params<every, double>(4);
    z.write("a", std::vector<double>(42, 0.0));
    tape<every, double> s;
    run_forward(z, x, batch::equal(1, 40), s);
    CHECK(s.aux_loss() == Approx(1));
}

TEST_CASE("balanced: gradients around any gate with weights, and threads", "[route][rank_gate]") {
    const auto rows = batch::ragged({3, 0, 5});
    constexpr adapter_spec kept{.rank = 4, .kept_ranks = 3};
    gradients<lora<base, kept, rank_gate::balanced<rank_gate::self_activated<3, coefficient{0.3}>, half>>>(
        rows);
    gradients<lora<base, rank6, rank_gate::balanced<rank_gate::sigmoid_top_k<3>, half>>>(rows);
    gradients<lora<base, rank9, rank_gate::balanced<rank_gate::sigmoid_top_k<2>, half>>>(rows);
    gradients<lora<base, rank6, rank_gate::balanced<exploring<always>, half>>>(rows);
    using wide = lora<linear<70, 90>, rank9,
                      rank_gate::balanced<rank_gate::self_activated<3, coefficient{0.3}>, half>>;
    CHECK(mox_test::same_for_threads<wide>(batch::ragged({300, 200})));
    CHECK(mox_test::nothing_from_no_token<
          lora<base, rank6, rank_gate::balanced<rank_gate::sigmoid_top_k<3>, half>>>());
}

// Few of many ranks: their rows of B are picked, forward, and all activations learn, backward.
TEST_CASE("self_activated: what is added is the weighted ranks, and pruned ones add nothing",
          "[route][rank_gate]") {
    using net = lora<base, rank9, rank_gate::self_activated<2, coefficient{0.3}, coefficient{0.55}>>;
    const auto rows = batch::ragged({4, 0, 13});
    const auto w = random_params<net, double>(4);
    const auto x = normal_numbers<double>(17 * 7, 1), a = w.read("a"), b = w.read("b");
    tape<net, double> t;
    for (const bool training : {true, false}) {
        const auto y = training ? run_forward(w, x, rows, t) : run_infer(w, x, rows, t);
        params<base, double> alone;
        copy_matching(w, alone);
        tape<base, double> u;
        auto expected = run_forward(alone, x, rows, u);
        const routing_record& r = t.routing()[0];
        index_t pruned = 0;
        for (index_t token = 0; token < 17; ++token) {
            for (index_t slot = 0; slot < 2; ++slot) {
                const auto rank = static_cast<std::size_t>(r.chosen[2 * token + slot]);
                pruned += r.gate(token, slot) == 0 ? 1 : 0;
                double z = 0;
                for (std::size_t i = 0; i < 7; ++i)
                    z += x[static_cast<std::size_t>(token) * 7 + i] * a[rank * 7 + i];
                for (std::size_t o = 0; o < 9; ++o)
                    expected[static_cast<std::size_t>(token) * 9 + o] +=
                        r.gate(token, slot) * z * b[rank * 9 + o];
            }
        }
        CHECK(distance(y, expected) < 1e-13);
        CHECK((pruned > 0) == !training);
    }
    gradients<lora<base, rank9, rank_gate::self_activated<2, coefficient{0.3}>>>(batch::ragged({3, 5}));
}
