// Adapters with gates in rank space against the authors' code.

#include <vector>

#include <mox/mox.hpp>

#include "../support/adapter_case.hpp"
#include "../support/catch.hpp"

using mox::index_t;
using mox_test::adapter_case;
using mox_test::distance;
using mox_test::exact;
using mox_test::golden;
using mox_test::rounded;
using mox_test::spec;

namespace {

template <index_t In, index_t Out, mox::adapter_spec Spec, class Gate = mox::rank_gate::all>
using adapter = mox::lora<mox::linear<In, Out>, Spec, Gate>;

template <class Net>
void check_task(const std::string& name) {
    CHECK(adapter_case<Net, double>(name).task_error() < exact);
    CHECK(adapter_case<Net, float>(name).task_error() < rounded);
}

}  // namespace

TEST_CASE("golden: lora", "[golden][lora]") {
    check_task<mox::lora<mox::linear<12, 9, mox::bias::with>, spec<4>(8)>>("lora-basic");
    check_task<adapter<11, 13, spec<1>(3)>>("lora-rank1");
}

namespace {

// The gate of the cases, and the gradient that arrives at it: a gate of one's own in a few lines.
std::vector<double> given_gate, gate_gradient;
struct given {
    using policy = mox::route::rank_gate_policy;
    [[maybe_unused]] static constexpr std::string_view name = "given";
    static constexpr bool routed = true, trains_down = true, scales_by_alpha = false;
    static constexpr bool reads_activations = false, teaches_activations = false;
    template <index_t Ranks>
    static constexpr index_t slots = Ranks;
    template <index_t In, index_t Ranks>
    static constexpr std::array<mox::parameter, 0> parameters{};
    static constexpr double flops(index_t, index_t) { return 0; }

    template <index_t Ranks, class T, class Context>
    static mox::matrix_view<T> forward(Context&, mox::tensor_list<const T>, mox::matrix_view<const T> x,
                                       mox::matrix_view<const T>, mox::row_t* chosen, T* g) {
        for (index_t i = 0; i < x.rows * Ranks; ++i) {
            chosen[i] = static_cast<mox::row_t>(i % Ranks);
            g[i] = static_cast<T>(given_gate[static_cast<std::size_t>(i)]);
        }
        return {};
    }
    template <index_t Ranks, class T, class Context>
    static void backward(Context&, mox::tensor_list<const T>, mox::tensor_list<T>,
                         mox::matrix_view<const T> x, mox::matrix_view<const T>, mox::matrix_view<const T>,
                         const mox::row_t*, const T*, const T* dg, mox::matrix_view<T>, mox::matrix_view<T>) {
        gate_gradient.assign(dg, dg + x.rows * Ranks);
    }
};

template <class Net>
void check_given(const std::string& name) {
    const golden g(name);
    given_gate = g.tensor("in.gate").values;
    CHECK(adapter_case<Net, double>(name).task_error() < exact);
    CHECK(distance(gate_gradient, g.tensor("grad.in.gate").values) < exact);
    CHECK(adapter_case<Net, float>(name).task_error() < rounded);
}

}  // namespace

TEST_CASE("golden: any gate in rank space", "[golden][lora]") {
    check_given<mox::lora<mox::linear<12, 9, mox::bias::with>, spec<5>(10), given>>("rankgate-dense");
    check_given<adapter<13, 11, spec<8>(12), given>>("rankgate-sparse");
}

TEST_CASE("lora: a gate of zeros is the base bit for bit, and the update is linear in the gate",
          "[layer][lora]") {
    using net = adapter<13, 11, spec<8>(12), given>;
    mox::tape<net, double> tape;
    const auto w = mox_test::random_params<net, double>(5);
    const auto x = mox_test::normal_numbers<double>(4 * 13, 1);
    const auto rows = mox::batch::equal(1, 4);
    const auto run = [&](const std::vector<double>& gate) {
        given_gate = gate;
        return mox_test::run_forward(w, x, rows, tape);
    };
    using plain = mox::linear<13, 11>;
    mox::params<plain, double> base;
    base.write("weight", w.read("0.0.weight"));
    mox::tape<plain, double> other;
    const auto none = run(std::vector<double>(32, 0.0));
    CHECK(none == mox_test::run_forward(base, x, rows, other));
    const auto g = mox_test::normal_numbers<double>(32, 2), h = mox_test::normal_numbers<double>(32, 3);
    std::vector<double> mixed;
    for (std::size_t i = 0; i < 32; ++i) mixed.push_back(2 * g[i] - 3 * h[i]);
    const auto of_g = run(g), of_h = run(h), of_mixed = run(mixed);
    std::vector<double> expected;
    for (std::size_t i = 0; i < none.size(); ++i)
        expected.push_back(none[i] + 2 * (of_g[i] - none[i]) - 3 * (of_h[i] - none[i]));
    CHECK(distance(of_mixed, expected) < 1e-12);
}

TEST_CASE("golden: lora with dropout is lora of the scaled rest of the input", "[golden][lora]") {
    // The mask of the case cannot be drawn here, but the adapter is linear in its own input: its update of
    // x * mask / (1 - p) must be what the case adds to the base.
    using net = adapter<10, 7, spec<3>(6)>;
    adapter_case<net, double> r("lora-dropout");
    const auto keep = r.file.flags("in.keep").values;
    const std::vector<double> x = r.x;
    auto base = r.weights;
    base.write("b", std::vector<double>(21, 0.0));
    const auto plain = mox_test::run_forward(base, x, r.rows, r.tape);
    for (std::size_t i = 0; i < x.size(); ++i) r.x[i] = x[i] * static_cast<double>(keep[i]) / 0.75;
    const auto base_of_rest = mox_test::run_forward(base, r.x, r.rows, r.tape);
    r.forward();
    for (std::size_t i = 0; i < r.y.size(); ++i) r.y[i] += plain[i] - base_of_rest[i];
    CHECK(distance(r.y, r.file.tensor("out.y").values) < exact);
    r.backward(r.file.tensor("in.dy").values);
    CHECK(distance(r.grads.read("a"), r.file.tensor("grad.param.A").values) < exact);
    CHECK(distance(r.grads.read("b"), mox_test::transposed(r.file.tensor("grad.param.B"))) < exact);
    // The gradient of the rest passes the mask again; that of the base does not.
    std::vector<double> dx = r.dx;
    mox::params<net, double> unused;
    mox::tape<net, double> of_base;
    mox_test::run_forward(base, x, r.rows, of_base);
    const auto through = mox_test::run_backward(base, r.file.tensor("in.dy").values, of_base, unused);
    for (std::size_t i = 0; i < dx.size(); ++i)
        dx[i] = through[i] + (dx[i] - through[i]) * static_cast<double>(keep[i]) / 0.75;
    CHECK(distance(dx, r.file.tensor("grad.in.x").values) < exact);
}

namespace {

template <class Net>
void check_selecting(const std::string& name) {
    adapter_case<Net, double> r(name);
    CHECK(r.task_error() < exact);
    CHECK(r.routing_error() < exact);
    if (r.file.has("out.select_bias_next")) CHECK(r.bias_error() < 1e-7);
    adapter_case<Net, float> f(name);
    CHECK(f.task_error() < rounded);
    CHECK(f.routing_error() < rounded);
}

constexpr mox::coefficient hundredth{0.01};

}  // namespace

TEST_CASE("golden: smora", "[golden][lora]") {
    check_selecting<adapter<12, 9, spec<10>(4), mox::rank_gate::sigmoid_top_k<3, 1, hundredth>>>(
        "smora-train");
    check_selecting<adapter<9, 10, spec<12>(8), mox::rank_gate::sigmoid_top_k<4, 2, hundredth>>>(
        "smora-partition");
    // Recorded in evaluation, where the bias stays.
    using ties = adapter<11, 8, spec<8>(16), mox::rank_gate::sigmoid_top_k<3, 1, hundredth>>;
    adapter_case<ties, double> r("smora-ties");
    CHECK(r.task_error() < exact);
    CHECK(r.routing_error() < exact);
    CHECK(distance(r.weights.read("select_bias"), r.file.tensor("out.select_bias_next").values) == 0.0);
}

TEST_CASE("golden: flylora", "[golden][lora]") {
    using mox::rank_gate::key;
    using mox::rank_gate::strongest;
    check_selecting<adapter<12, 9, spec<8>(16), strongest<3>>>("flylora-abs");
    check_selecting<adapter<13, 8, spec<8>(8), strongest<2, key::value, hundredth>>>("flylora-signed");
    check_selecting<adapter<10, 7, spec<6>(12), strongest<2, key::value, hundredth>>>("flylora-dead");
}

TEST_CASE("golden: moram", "[golden][lora]") {
    using mox::coefficient;
    using mox::rank_gate::self_activated;
    using first = adapter<12, 9, spec<6>(0), self_activated<3, coefficient{0.3}>>;
    using second = adapter<11, 8, spec<4>(0, 5), self_activated<3, coefficient{0.3}>>;
    check_selecting<first>("moram-task1");
    check_selecting<second>("moram-task2");
    using infer = adapter<10, 8, spec<4>(0, 4), self_activated<4, coefficient{0.1}, coefficient{0.45}>>;
    adapter_case<infer, double> r("moram-infer");
    CHECK(distance(mox_test::run_infer(r.weights, r.x, r.rows, r.tape), r.file.tensor("out.y").values) <
          exact);
    CHECK(r.routing_error() < exact);
}
