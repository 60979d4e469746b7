#include <mox/layer/pooled_load.hpp>

#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/gradients.hpp"
#include "../support/layers.hpp"

using namespace mox;
using namespace mox_test;

namespace {

constexpr coefficient unit{1.0};
constexpr adapter_spec rank2{.rank = 2, .alpha = 5};
constexpr mixlora_spec updates{.adapter = rank2};
template <class... Policies>
using ffn = residual<rms_norm<7>, mixlora<7, 5, activation::silu, 4, updates, Policies...>>;
template <class... Policies>
using bank = lora_experts<linear<7, 7>, 4, rank2, Policies...>;
using hard = stack<ffn<route::top_k<2>, balance::pooled>, bank<route::top_k<2>, balance::pooled>,
                   pooled_load<7, 4, unit>>;
using entropy_soft = route::entropy_broadcast<>;
using soft = stack<bank<entropy_soft, gate::softmax, balance::pooled_soft>,
                   residual<rms_norm<7>, bank<entropy_soft, gate::softmax, balance::pooled_soft>>,
                   pooled_load<7, 4, unit>>;

// The loss from what a plain network of the same routers did: probabilities from its logits are not recorded,
// but with all experts and gate::softmax they are the gates.
using all_soft = bank<route::all, gate::softmax, balance::pooled_soft>;
using all_hard = bank<route::all, gate::softmax, balance::pooled>;

}  // namespace

TEST_CASE("pooled_load: gradients, choices and gate weights", "[layer][pooled_load]") {
    const auto rows = batch::ragged({3, 0, 5, 2});
    gradients<hard>(rows);
    gradients<soft>(rows);
    gradients<stack<repeat<3, all_soft>, pooled_load<7, 4, unit>>>(rows);
}

TEST_CASE("pooled_load: one layer is the loss of that layer", "[layer][pooled_load]") {
    const auto same = [](auto pooled, auto own) {
        using P = typename decltype(pooled)::type;
        using O = typename decltype(own)::type;
        const auto w = random_params<O, double>(3);
        params<P, double> v;
        for (const std::string name : {"router", "a", "b", "0.0.weight"}) v.write("0." + name, w.read(name));
        const auto x = normal_numbers<double>(8 * 7, 1), dy = normal_numbers<double>(8 * 7, 2);
        tape<P, double> t;
        tape<O, double> u;
        params<P, double> g;
        params<O, double> h;
        CHECK(distance(run_forward(v, x, batch::ragged({3, 5}), t),
                       run_forward(w, x, batch::ragged({3, 5}), u)) < 1e-13);
        CHECK(t.aux_loss() == Approx(u.aux_loss()).epsilon(1e-12));
        CHECK(distance(run_backward(v, dy, t, g), run_backward(w, dy, u, h)) < 1e-12);
        CHECK(distance(g.read("0.router"), h.read("router")) < 1e-12);
    };
    // F sums to k here, to 1 there.
    same(std::type_identity<stack<bank<route::top_k<2>, balance::pooled>, pooled_load<7, 4, unit>>>{},
         std::type_identity<bank<route::top_k<2>, balance::load<coefficient{2.0}>>>{});
    same(std::type_identity<stack<bank<entropy_soft, gate::softmax, balance::pooled_soft>,
                                  pooled_load<7, 4, coefficient{0.5}>>>{},
         std::type_identity<bank<entropy_soft, gate::softmax, balance::soft_load<coefficient{0.5}>>>{});
}

TEST_CASE("pooled_load: tokens of all layers together, not the sum of the layers' losses",
          "[layer][pooled_load]") {
    using net = stack<all_soft, all_soft, pooled_load<7, 4, unit>>;
    const auto w = random_params<net, double>(3);
    tape<net, double> t;
    run_forward(w, normal_numbers<double>(5 * 7, 1), batch::equal(1, 5), t);
    double mean[4] = {}, expected = 0, apart = 0;
    for (const routing_record& r : t.routing()) {
        double own[4] = {};
        for (index_t row = 0; row < 5; ++row) {
            for (index_t e = 0; e < 4; ++e) own[r.chosen[row * 4 + e]] += r.gate(row, e) / 5;
        }
        for (std::size_t e = 0; e < 4; ++e) {
            mean[e] += own[e] / 2;
            apart += 4 * own[e] * own[e];
        }
    }
    for (const double m : mean) expected += 4 * m * m;
    CHECK(t.aux_loss() == Approx(expected).epsilon(1e-12));
    CHECK(std::abs(expected - apart / 2) > 1e-3);
    // Every expert chosen by every token: at its minimum, k = E, whatever the probabilities.
    using even = stack<all_hard, all_hard, pooled_load<7, 4, unit>>;
    tape<even, double> u;
    run_forward(random_params<even, double>(3), normal_numbers<double>(5 * 7, 1), batch::equal(1, 5), u);
    CHECK(u.aux_loss() == Approx(4));
}

TEST_CASE("pooled_load: nothing in inference or without tokens", "[layer][pooled_load]") {
    const auto w = random_params<hard, double>(3);
    tape<hard, double> t;
    run_infer(w, normal_numbers<double>(5 * 7, 1), batch::equal(1, 5), t);
    CHECK(t.aux_loss() == 0);
    run_forward(w, {}, batch::ragged({0, 0}), t);
    CHECK(t.aux_loss() == 0);
    CHECK(same_for_threads<hard>(batch::ragged({300, 200})));
}
