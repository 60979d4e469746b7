#include <mox/route/shared_decision.hpp>

#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using mox_test::distance;
using mox_test::normal_numbers;
using mox_test::random_params;
using mox_test::run_backward;
using mox_test::run_forward;
using mox_test::run_infer;

namespace {

constexpr adapter_spec rank2{.rank = 2, .alpha = 5};
template <index_t In, index_t Out, class... Policies>
using bank = lora_experts<linear<In, Out>, 3, rank2, Policies...>;
template <index_t In, index_t Out>
using follower = bank<In, Out, route::shared_decision<3>, route::hard_inference>;

}  // namespace

TEST_CASE("shared_decision: one layer behind the gate is a layer with a gate of its own",
          "[route][shared_decision]") {
    using own = bank<7, 9, route::sequence_max_linear, route::hard_inference>;
    using shared_gate = stack<sequence_gate<7, 3>, follower<7, 9>>;
    const auto w = random_params<own, double>(3);
    params<shared_gate, double> v;
    v.write("0.router", w.read("router"));
    for (const std::string name : {"a", "b", "0.0.weight"}) v.write("1." + name, w.read(name));
    const auto rows = batch::ragged({3, 0, 5});
    const auto x = normal_numbers<double>(8 * 7, 1), dy = normal_numbers<double>(8 * 9, 2);
    tape<own, double> t;
    tape<shared_gate, double> u;
    CHECK(run_forward(w, x, rows, t) == run_forward(v, x, rows, u));
    params<own, double> g;
    params<shared_gate, double> h;
    CHECK(distance(run_backward(w, dy, t, g), run_backward(v, dy, u, h)) < 1e-13);
    CHECK(distance(g.read("router"), h.read("0.router")) < 1e-13);
    CHECK(distance(g.read("a"), h.read("1.a")) < 1e-13);
    CHECK(run_infer(w, x, rows, t) == run_infer(v, x, rows, u));
}

TEST_CASE("shared_decision: all layers of a network follow one decision per sequence",
          "[route][shared_decision]") {
    using net =
        stack<sequence_gate<7, 3>, follower<7, 9>, residual<rms_norm<9>, follower<9, 9>>, follower<9, 7>>;
    const auto w = random_params<net, double>(3);
    const auto rows = batch::ragged({3, 0, 5});
    tape<net, double> t;
    run_forward(w, normal_numbers<double>(8 * 7, 1), rows, t);
    REQUIRE(t.routing().size() == 3);
    for (const routing_record& r : t.routing()) {
        for (index_t row = 0; row < 8; ++row) {
            for (index_t e = 0; e < 3; ++e) CHECK(r.gate(row, e) == t.routing()[0].gate(row < 3 ? 0 : 3, e));
        }
    }
    run_infer(w, normal_numbers<double>(8 * 7, 1), rows, t);
    for (const routing_record& r : t.routing()) {
        for (index_t row = 0; row < 8; ++row) {
            CHECK(r.chosen[row * 3] == t.routing()[0].chosen[row < 3 ? 0 : 9]);
            CHECK(r.chosen[row * 3 + 1] == -1);
            CHECK(r.gate(row, 0) == 1);
        }
    }
    static_assert(follower<7, 9>::parameters.size() == 2, "two factors, no router");
}
