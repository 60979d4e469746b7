// One gate per sequence, a gate with a mask, and a reward head on several experts against recorded cases.

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/adapter_case.hpp"
#include "../support/catch.hpp"

using mox::index_t;
using mox::row_t;
using mox_test::as;
using mox_test::distance;
using mox_test::exact;
using mox_test::golden;
using mox_test::rounded;
using mox_test::run_backward;
using mox_test::run_forward;
using mox_test::run_infer;
using mox_test::spec;
using mox_test::transposed;

namespace {

// Matrices of the same number of rows side by side.
std::vector<double> beside(const std::vector<double>& left, std::size_t a, const std::vector<double>& right,
                           std::size_t b) {
    std::vector<double> all;
    for (std::size_t t = 0; t * a < left.size(); ++t) {
        all.insert(all.end(), left.data() + t * a, left.data() + t * a + a);
        all.insert(all.end(), right.data() + t * b, right.data() + t * b + b);
    }
    return all;
}

// Columns [from, from + width) of a matrix with `cols`.
template <class T>
std::vector<T> columns(const std::vector<T>& m, std::size_t cols, std::size_t from, std::size_t width) {
    std::vector<T> part;
    for (std::size_t i = 0; i < m.size(); ++i) {
        if (i % cols >= from && i % cols < from + width) part.push_back(m[i]);
    }
    return part;
}

// The case scores embeddings and adapts hidden states. A row here has both side by side, and the weights let
// the router see only the left half and the experts only the right one.
using stelo = mox::lora_experts<mox::linear<16, 7>, 5, spec<4>(32), mox::route::sequence_max_linear,
                                mox::route::hard_inference>;

template <class T>
void check_stelocoder(double bound) {
    const golden file("stelocoder-train");
    const auto rows = mox::batch::equal(3, 5);
    mox::params<stelo, T> weights, grads;
    mox::tape<stelo, T> tape;
    auto router = transposed(file.tensor("param.router"));
    router.resize(16 * 5);
    const auto a = file.tensor("param.A").values, b = transposed(file.tensor("param.B"));
    const auto base = transposed(file.tensor("param.W"));
    std::vector<double> lower(8 * 7);
    lower.insert(lower.end(), base.begin(), base.end());
    weights.write("router", as<T>(router));
    weights.write("a", as<T>(beside(std::vector<double>(a.size()), 8, a, 8)));
    weights.write("b", as<T>(b));
    weights.write("0.0.weight", as<T>(lower));
    const auto hidden = file.tensor("in.x").values;
    const auto x = as<T>(beside(file.tensor("in.emb").values, 8, hidden, 8));

    CHECK(distance(run_forward(weights, x, rows, tape), file.tensor("out.y").values) < bound);
    const auto p = file.tensor("out.gate").values;
    CHECK(file.tensor("out.prob").values == p);
    REQUIRE(tape.routing().size() == 1);
    for (index_t t = 0; t < 15; ++t) {
        for (index_t e = 0; e < 5; ++e) {
            CHECK(tape.routing()[0].chosen[t * 5 + e] == e);
            CHECK(std::abs(tape.routing()[0].gate(t, e) - p[static_cast<std::size_t>(t / 5 * 5 + e)]) <
                  bound);
        }
    }
    const auto dx = run_backward(weights, as<T>(file.tensor("in.dy").values), tape, grads);
    CHECK(distance(columns(dx, 16, 0, 8), file.tensor("grad.in.emb").values) < bound);
    CHECK(distance(columns(dx, 16, 8, 8), file.tensor("grad.in.x").values) < bound);
    auto drouter = grads.read("router");
    drouter.resize(8 * 5);
    CHECK(distance(drouter, transposed(file.tensor("grad.param.router"))) < bound);
    CHECK(distance(columns(grads.read("a"), 16, 8, 8), file.tensor("grad.param.A").values) < bound);
    CHECK(distance(grads.read("b"), transposed(file.tensor("grad.param.B"))) < bound);

    // In inference the recorded best expert alone, with weight 1 instead of its probability.
    const auto y = run_infer(weights, x, rows, tape);
    const auto best = file.integers("route.index").values;
    std::vector<double> expected;
    for (std::size_t t = 0; t < 15; ++t) {
        const auto e = static_cast<std::size_t>(best[t / 5]);
        for (std::size_t o = 0; o < 7; ++o) {
            double sum = 0;
            for (std::size_t i = 0; i < 8; ++i) {
                double w = base[i * 7 + o];
                for (std::size_t r = 0; r < 4; ++r) w += 8 * a[(e * 4 + r) * 8 + i] * b[(e * 4 + r) * 7 + o];
                sum += hidden[t * 8 + i] * w;
            }
            expected.push_back(sum);
        }
    }
    CHECK(distance(y, expected) < bound);
    CHECK(distance(y, file.tensor("out.y").values) > 0.1);
    CHECK(tape.routing()[0].chosen[0] == best[0]);
    CHECK(tape.routing()[0].chosen[1] == -1);
    CHECK(tape.routing()[0].gate(0, 0) == 1);
}

// Experts that give unit vectors make the output the gate: column 8 of a row is 1, expert e writes it to e.
using gate_only = mox::lora_experts<mox::linear<8, 7>, 7, spec<1>(1), mox::route::masked_top_k<3>>;

template <class T>
void check_mova(double bound) {
    const golden file("mova-gate");
    mox::params<gate_only, T> weights, grads;
    mox::tape<gate_only, T> tape;
    std::vector<double> router(8 * 7), a(7 * 8), b(7 * 7);
    for (std::size_t e = 0; e < 7; ++e) router[e * 7 + e] = a[e * 8 + 7] = b[e * 7 + e] = 1;
    weights.write("router", as<T>(router));
    weights.write("a", as<T>(a));
    weights.write("b", as<T>(b));
    weights.write("0.0.weight", std::vector<T>(8 * 7));
    std::vector<std::uint8_t> allowed;
    for (const double m : file.tensor("in.mask").values) allowed.push_back(m == 0);
    auto rows = mox::batch::equal(4, 1);
    rows.with_allowed_experts(allowed, 7);
    const auto x = as<T>(beside(file.tensor("in.logits").values, 7, std::vector<double>(4, 1.0), 1));

    CHECK(distance(run_forward(weights, x, rows, tape), file.tensor("out.y").values) < bound);
    const auto expected = file.integers("route.index").values;
    for (index_t i = 0; i < 12; ++i) {
        const row_t e = tape.routing()[0].chosen[i];
        CHECK(e == expected[static_cast<std::size_t>(i)]);
    }
    const auto dx = run_backward(weights, as<T>(file.tensor("in.dy").values), tape, grads);
    CHECK(distance(columns(dx, 8, 0, 7), file.tensor("grad.in.logits").values) < bound);
}

using reward =
    mox::stack<mox::linear<18, 6, mox::bias::with>, mox::prelu<6>, mox::linear<6, 1, mox::bias::with>>;

template <class T>
void check_dmoerm(double bound) {
    const golden file("dmoerm-phase3");
    // Phase 2 left three adapters around one frozen layer; the head reads their outputs side by side.
    using expert = mox::lora<mox::linear<7, 6>, spec<2>(2)>;
    std::vector<double> hidden(5 * 18);
    const auto a = file.tensor("param.A").values, b = transposed(file.tensor("param.B"));
    for (std::size_t k = 0; k < 3; ++k) {
        mox::params<expert, T> adapter;
        mox::tape<expert, T> t;
        adapter.write("a", as<T>({a.data() + k * 14, a.data() + k * 14 + 14}));
        adapter.write("b", as<T>({b.data() + k * 12, b.data() + k * 12 + 12}));
        adapter.write("0.0.weight", as<T>(transposed(file.tensor("param.W"))));
        const auto h = run_infer(adapter, as<T>(file.tensor("in.x").values), mox::batch::equal(1, 5), t);
        for (std::size_t i = 0; i < 30; ++i)
            hidden[i / 6 * 18 + k * 6 + i % 6] = std::tanh(static_cast<double>(h[i]));
    }
    CHECK(distance(hidden, file.tensor("out.hidden").values) < bound);

    mox::params<reward, T> weights, grads;
    mox::tape<reward, T> tape;
    weights.write("0.weight", as<T>(transposed(file.tensor("param.W1"))));
    weights.write("0.bias", as<T>(file.tensor("param.b1").values));
    weights.write("1.slope", as<T>(file.tensor("param.prelu").values));
    weights.write("2.weight", as<T>(transposed(file.tensor("param.W2"))));
    weights.write("2.bias", as<T>(file.tensor("param.b2").values));
    const auto rows = mox::batch::equal(1, 5);
    const auto x = as<T>(hidden);
    const auto check_gradients = [&](const std::string& prefix) {
        CHECK(distance(grads.read("0.weight"), transposed(file.tensor(prefix + "W1"))) < bound);
        CHECK(distance(grads.read("0.bias"), file.tensor(prefix + "b1").values) < bound);
        CHECK(distance(grads.read("1.slope"), file.tensor(prefix + "prelu").values) < bound);
        CHECK(distance(grads.read("2.weight"), transposed(file.tensor(prefix + "W2"))) < bound);
        CHECK(distance(grads.read("2.bias"), file.tensor(prefix + "b2").values) < bound);
    };
    CHECK(distance(run_forward(weights, x, rows, tape), file.tensor("out.y").values) < bound);
    run_backward(weights, as<T>(file.tensor("in.dy").values), tape, grads);
    check_gradients("grad.param.");

    std::vector<row_t> ranks;
    for (const auto r : file.integers("in.rank").values) ranks.push_back(static_cast<row_t>(r));
    const auto y = mox::forward(weights, mox::matrix_view<const T>(x.data(), 5, 18), rows, tape);
    const T loss = mox::pairwise_ranking_loss(y, ranks, tape.output_grad());
    CHECK(std::abs(static_cast<double>(loss) - file.tensor("loss.pair").values.at(0)) < bound);
    mox::backward(weights, tape, grads);
    check_gradients("grad_pair.param.");
}

}  // namespace

TEST_CASE("golden: stelocoder", "[golden][lora]") {
    check_stelocoder<double>(exact);
    // Outputs up to 15: the distance is relative above 1.
    check_stelocoder<float>(rounded);
    CHECK(mox_test::unread("stelocoder-train") == mox_test::nothing);
}

TEST_CASE("golden: mova's gate", "[golden]") {
    check_mova<double>(exact);
    check_mova<float>(rounded);
    CHECK(mox_test::unread("mova-gate") == mox_test::nothing);
}

TEST_CASE("golden: dmoerm, third phase", "[golden]") {
    check_dmoerm<double>(exact);
    check_dmoerm<float>(rounded);
    CHECK(mox_test::unread("dmoerm-phase3") == mox_test::nothing);
}
