// Adapters with gates in rank space against the authors' code.

#include <set>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/adapter_case.hpp"
#include "../support/catch.hpp"

using mox::index_t;
using mox_test::adapter_case;
using mox_test::distance;
using mox_test::exact;
using mox_test::golden;
using mox_test::nothing;
using mox_test::rounded;
using mox_test::spec;
using mox_test::unread;

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
    // The base is frozen here, and merges are tests/transform/merge_test.cpp's.
    const std::set<std::string> others{"grad.param.W", "grad.param.bias", "out.W_merged", "out.y_merged",
                                       "out.W_unmerged"};
    CHECK(unread("lora-basic", others) == nothing);
    CHECK(unread("lora-rank1", others) == nothing);
}

namespace {

// The gate of the cases, what it sees, and the gradient that arrives at it: a gate of one's own in a few
// lines.
std::vector<double> given_gate, seen_activations, gate_gradient;
struct given {
    using policy = mox::route::rank_gate_policy;
    [[maybe_unused]] static constexpr std::string_view name = "given";
    static constexpr bool routed = true, trains_down = true, scales_by_alpha = false;
    static constexpr bool reads_activations = true, teaches_activations = false;
    template <index_t Ranks>
    static constexpr index_t slots = Ranks;
    template <index_t In, index_t Ranks>
    static constexpr std::array<mox::parameter, 0> parameters{};
    static constexpr double flops(index_t, index_t) { return 0; }

    template <index_t Ranks, class T, class Context>
    static mox::matrix_view<T> forward(Context&, mox::tensor_list<const T>, mox::matrix_view<const T> x,
                                       mox::matrix_view<const T> z, mox::row_t* chosen, T* g) {
        seen_activations.clear();
        for (index_t t = 0; t < z.rows; ++t)
            seen_activations.insert(seen_activations.end(), z.row(t), z.row(t) + z.cols);
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
    CHECK(distance(seen_activations, g.tensor("out.z").values) < exact);
    CHECK(adapter_case<Net, float>(name).task_error() < rounded);
    CHECK(unread(name, {"grad.param.W", "grad.param.bias"}) == nothing);
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
    CHECK(unread("lora-dropout") == nothing);
}

namespace {

template <class Net>
void check_selecting(const std::string& name) {
    adapter_case<Net, double> r(name);
    CHECK(r.task_error() < exact);
    CHECK(r.routing_error() < exact);
    if (r.file.has("out.select_bias_next")) CHECK(r.bias_error() < 1e-7);
    if (r.file.has("out.delta")) {
        // What the adapter adds to the base.
        mox::params<typename Net::base_type, double> base;
        mox::copy_matching(r.weights, base);
        mox::tape<typename Net::base_type, double> t;
        const auto y = mox_test::run_forward(base, r.x, r.rows, t);
        for (std::size_t i = 0; i < y.size(); ++i) r.y[i] -= y[i];
        CHECK(distance(r.y, r.file.tensor("out.delta").values) < exact);
    }
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
    for (const std::string name : {"smora-train", "smora-partition", "smora-ties"})
        CHECK(unread(name) == nothing);
}

TEST_CASE("golden: flylora", "[golden][lora]") {
    using mox::rank_gate::key;
    using mox::rank_gate::strongest;
    check_selecting<adapter<12, 9, spec<8>(16), strongest<3>>>("flylora-abs");
    check_selecting<adapter<13, 8, spec<8>(8), strongest<2, key::value, hundredth>>>("flylora-signed");
    check_selecting<adapter<10, 7, spec<6>(12), strongest<2, key::value, hundredth>>>("flylora-dead");
    for (const std::string name : {"flylora-abs", "flylora-signed", "flylora-dead"})
        CHECK(unread(name) == nothing);
}

namespace {

// Shows the normalised activations of a gate: they are its state.
std::vector<double> normalised;
template <class Gate>
struct showing : Gate {
    template <index_t Ranks, class T, class Context>
    static mox::matrix_view<T> forward(Context& ctx, mox::tensor_list<const T> w, mox::matrix_view<const T> x,
                                       mox::matrix_view<const T> z, mox::row_t* chosen, T* g) {
        const auto h = Gate::template forward<Ranks, T>(ctx, w, x, z, chosen, g);
        normalised.clear();
        for (index_t t = 0; t < h.rows; ++t) normalised.insert(normalised.end(), h.row(t), h.row(t) + h.cols);
        return h;
    }
};

template <index_t In, index_t Out, mox::adapter_spec Spec, class Gate>
void check_moram(const std::string& name) {
    check_selecting<adapter<In, Out, Spec, Gate>>(name);
    adapter_case<adapter<In, Out, Spec, showing<Gate>>, double> r(name);
    r.forward();
    CHECK(distance(normalised, r.file.tensor("out.score").values) < exact);
    CHECK(unread(name) == nothing);
}

}  // namespace

TEST_CASE("golden: moram", "[golden][lora]") {
    using mox::coefficient;
    using mox::rank_gate::self_activated;
    check_moram<12, 9, spec<6>(0), self_activated<3, coefficient{0.3}>>("moram-task1");
    check_moram<11, 8, spec<4>(0, 5), self_activated<3, coefficient{0.3}>>("moram-task2");
    using infer = adapter<10, 8, spec<4>(0, 4), self_activated<4, coefficient{0.1}, coefficient{0.45}>>;
    adapter_case<infer, double> r("moram-infer");
    CHECK(distance(mox_test::run_infer(r.weights, r.x, r.rows, r.tape), r.file.tensor("out.y").values) <
          exact);
    CHECK(r.routing_error() < exact);
    // Recorded with the gradients of evaluation, which a gate has that prunes in training.
    check_moram<10, 8, spec<4>(0, 4),
                self_activated<4, coefficient{0.1}, coefficient{0.45}, coefficient{1e-12},
                               mox::rank_gate::pruning::always>>("moram-infer");
}
