#include <mox/layer/sequence_gate.hpp>

#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/gradients.hpp"
#include "../support/layers.hpp"

using namespace mox;
using namespace mox_test;

namespace {

constexpr adapter_spec rank2{.rank = 2, .alpha = 5};
constexpr mixlora_spec updates{.adapter = rank2};
template <index_t In, index_t Out>
using follower = lora_experts<linear<In, Out>, 3, rank2, route::shared_decision<3>, route::hard_inference>;
using net = stack<sequence_gate<7, 3>, follower<7, 9>, residual<rms_norm<9>, follower<9, 9>>,
                  mixlora<9, 5, activation::silu, 3, updates, route::shared_decision<3>, route::top_k<2>>,
                  linear<9, 7>>;

}  // namespace

TEST_CASE("sequence_gate: the gradients of all followers add up in it", "[layer][sequence_gate]") {
    gradients<net>(batch::ragged({3, 0, 5, 1}));
    // In repeated blocks, and two gates, of which each leads those behind it.
    gradients<stack<sequence_gate<7, 3>, repeat<2, residual<rms_norm<7>, follower<7, 7>>>,
                    sequence_gate<7, 3>, follower<7, 9>>>(batch::ragged({3, 0, 5}));
}

TEST_CASE("sequence_gate: changes no row, and learns nothing when nobody follows", "[layer][sequence_gate]") {
    using alone = sequence_gate<7, 3>;
    const auto w = random_params<alone, double>(3);
    const auto x = normal_numbers<double>(8 * 7, 1), dy = normal_numbers<double>(8 * 7, 2);
    tape<alone, double> t;
    params<alone, double> g;
    const auto rows = batch::ragged({3, 5});
    CHECK(run_forward(w, x, rows, t) == x);
    CHECK(run_backward(w, dy, t, g) == dy);
    for (const double v : g.read("router")) CHECK(v == 0.0);
}

TEST_CASE("sequence_gate: threads, no token, and no stream", "[layer][sequence_gate]") {
    CHECK(same_for_threads<net>(batch::ragged({40, 1, 0, 100, 2, 64})));
    const auto w = random_params<net, double>(3);
    tape<net, double> t;
    CHECK(run_forward(w, {}, batch::ragged({0, 0}), t).empty());
    stream<net, double> s(4);
    const auto x = normal_numbers<double>(7, 1);
    CHECK_THROWS_WITH(decode(w, matrix_view<const double>(x.data(), 1, 7), s),
                      Catch::Matchers::Contains("whole sequences"));
}
