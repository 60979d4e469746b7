#include <mox/train/selection_bias.hpp>

#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;

namespace {

constexpr adapter_spec rank4{.rank = 4};
using gated = lora<linear<6, 6>, rank4, rank_gate::sigmoid_top_k<1, 1, coefficient{0.25}>>;

}  // namespace

TEST_CASE("selection bias: against the choices of the step, layer by layer", "[train][selection_bias]") {
    using mixed = stack<gated, moe<experts<2, swiglu<6, 4>>, route::top_k<1>, shared<gated>>,
                        repeat<2, depth<gated, route::learned, keep_permille<500>>>, frozen<gated>, gated>;
    params<mixed, double> w(init::standard, 8);
    tape<mixed, double> t;
    const auto x = mox_test::normal_numbers<double>(60, 1);
    mox_test::run_forward(w, x, batch::equal(2, 5), t);
    // The records of the gated layers, in the order of the network.
    std::vector<std::vector<row_t>> counts;
    for (const routing_record& r : t.routing()) {
        if (r.layer == type_id<gated>()) counts.emplace_back(r.counts, r.counts + 4);
    }
    REQUIRE(counts.size() == 6);
    const auto before = w;
    update_selection_bias(w, t);
    std::size_t layer = 0;
    for (const auto& info : params<mixed, double>::tensors()) {
        if (info.path.find("select_bias") == std::string::npos) {
            CHECK(w.read(info) == before.read(info));
            continue;
        }
        const auto bias = w.read(info);
        double tokens = 0;
        for (const row_t c : counts[layer]) tokens += c;
        INFO(info.path);
        for (std::size_t i = 0; i < 4; ++i) {
            const double c = counts[layer][i], mean = tokens / 4;
            const double expected = layer == 4 ? 0 : c < mean ? 0.25 : c > mean ? -0.25 : 0;
            CHECK(bias[i] == expected);
        }
        ++layer;
    }
    CHECK(layer == 6);
}

TEST_CASE("selection bias: an inference since the step is refused, and moves nothing",
          "[train][selection_bias][error]") {
    params<gated, double> w(init::standard, 8);
    const auto before = w.read("select_bias");
    tape<gated, double> t;
    const auto x = mox_test::normal_numbers<double>(gated::in * 5, 1);
    const auto says = Catch::Matchers::Contains("must be a training forward");
    CHECK_THROWS_WITH(update_selection_bias(w, t), says);
    mox_test::run_forward(w, x, batch::equal(1, 5), t);
    mox_test::run_infer(w, x, batch::equal(1, 5), t);
    CHECK_THROWS_WITH(update_selection_bias(w, t), says);
    CHECK(w.read("select_bias") == before);
}

TEST_CASE("selection bias: a network without one stays as it is", "[train][selection_bias]") {
    using net = stack<moe<experts<2, swiglu<6, 4>>, route::top_k<1>>, linear<6, 2>>;
    params<net, double> w(init::standard, 8);
    const auto before = std::vector<double>(w.flat().begin(), w.flat().end());
    tape<net, double> t;
    const auto x = mox_test::normal_numbers<double>(30, 1);
    mox_test::run_forward(w, x, batch::equal(1, 5), t);
    update_selection_bias(w, t);
    CHECK(std::vector<double>(w.flat().begin(), w.flat().end()) == before);
}
