#include <mox/layer/router.hpp>

#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/gradients.hpp"
#include "../support/layers.hpp"

using namespace mox;
using namespace mox_test;
using Catch::Matchers::Contains;

namespace {

constexpr adapter_spec rank2{.rank = 2, .alpha = 5};
template <class... Policies>
using bank = lora_experts<linear<7, 9>, 4, rank2, Policies...>;
using stelo = bank<route::sequence_max_linear, route::hard_inference>;
using masked = bank<route::masked_top_k<2>>;

batch with_masks() {
    auto rows = batch::ragged({3, 0, 5, 2, 1});
    // Two of three, anything, one, all, none.
    rows.with_allowed_experts({1, 0, 1, 1, 1, 1, 1, 1, 0, 0, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0}, 4);
    return rows;
}

}  // namespace

TEST_CASE("router: gradients of gates per sequence and gates with a mask", "[layer][router]") {
    gradients<stelo>(batch::ragged({3, 0, 5, 2}));
    // Any selector and loss can follow a decision per sequence.
    gradients<bank<route::sequence_max_linear, route::top_k<2>, balance::load<>>>(
        batch::ragged({3, 0, 5, 2}));
    gradients<masked>(with_masks());
    gradients<moe<experts<4, swiglu<7, 5>>, route::masked_top_k<2>, gate::softmax>>(with_masks());
}

TEST_CASE("router: a decision per sequence does not see other sequences", "[layer][router]") {
    const auto w = random_params<stelo, double>(3);
    const auto x = normal_numbers<double>(8 * 7, 4);
    tape<stelo, double> t;
    const auto both = run_forward(w, x, batch::ragged({3, 5}), t);
    const auto left = run_forward(w, std::vector<double>(x.begin(), x.begin() + 21), batch::equal(1, 3), t);
    const auto right = run_forward(w, std::vector<double>(x.begin() + 21, x.end()), batch::equal(1, 5), t);
    CHECK(distance(std::vector<double>(both.begin(), both.begin() + 27), left) < 1e-13);
    CHECK(distance(std::vector<double>(both.begin() + 27, both.end()), right) < 1e-13);
    // A permutation of a sequence's tokens changes no decision.
    const auto gate = t.routing()[0].gate(0, 0);
    std::vector<double> turned(x.begin() + 28, x.end());
    turned.insert(turned.end(), x.begin() + 21, x.begin() + 28);
    run_forward(w, turned, batch::equal(1, 5), t);
    CHECK(t.routing()[0].gate(2, 0) == Approx(gate).epsilon(1e-13));
    CHECK(gate != Approx(0.25).epsilon(1e-3));
}

TEST_CASE("router: with a mask, forbidden experts do nothing and learn nothing", "[layer][router]") {
    const auto w = random_params<masked, double>(5);
    const auto rows = with_masks();
    const auto x = normal_numbers<double>(rows.rows() * 7, 6);
    tape<masked, double> t;
    const auto y = run_forward(w, x, rows, t);
    const auto& r = t.routing()[0];
    for (index_t i = 0; i < 3; ++i) {
        CHECK(r.chosen[i * 2] != 1);
        CHECK(r.chosen[i * 2 + 1] != 1);
        CHECK(r.gate(i, 0) + r.gate(i, 1) == Approx(1).epsilon(1e-14));
    }
    for (index_t i = 3; i < 8; ++i) {
        CHECK(r.chosen[i * 2] == 2);
        CHECK(r.chosen[i * 2 + 1] == -1);
        CHECK(r.gate(i, 0) == 1);
        CHECK(r.gate(i, 1) == 0);
    }
    // The last sequence may use none: the frozen layer alone.
    const auto base = w.read("0.0.weight");
    for (std::size_t o = 0; o < 9; ++o) {
        double sum = 0;
        for (std::size_t i = 0; i < 7; ++i) sum += x[70 + i] * base[i * 9 + o];
        CHECK(y[90 + o] == Approx(sum).epsilon(1e-13));
    }
    // Expert 1 is allowed in the sequence of two tokens only, now forbidden there too.
    auto less = batch::ragged({3, 0, 5, 2, 1});
    less.with_allowed_experts({1, 0, 1, 1, 1, 1, 1, 1, 0, 0, 1, 0, 1, 0, 1, 1, 0, 0, 0, 0}, 4);
    run_forward(w, x, less, t);
    params<masked, double> g;
    run_backward(w, normal_numbers<double>(rows.rows() * 9, 7), t, g);
    const auto a = g.read("a"), router = g.read("router");
    for (std::size_t i = 14; i < 28; ++i) CHECK(a[i] == 0.0);
    for (std::size_t k = 0; k < 7; ++k) CHECK(router[k * 4 + 1] == 0.0);
    CHECK(a[28] != 0.0);
    CHECK(router[0] != 0.0);
}

TEST_CASE("router: masks reach experts behind a choice of tokens", "[layer][router]") {
    using inner = lora_experts<linear<7, 7>, 4, rank2, route::masked_top_k<2>>;
    using net = depth<residual<inner>, route::learned, keep_permille<500>, weighting::sigmoid,
                      sampling::auxiliary_loss<coefficient{0.5}>>;
    const auto w = random_params<net, double>(8);
    auto rows = batch::equal(2, 4);
    rows.with_allowed_experts({0, 1, 0, 1, 1, 0, 0, 0}, 4);
    tape<net, double> t;
    run_forward(w, normal_numbers<double>(56, 9), rows, t);
    for (const auto& r : t.routing()) {
        if (r.kind != routing_record::kind_t::experts) continue;
        REQUIRE(r.rows == 4);
        for (index_t i = 0; i < 2; ++i) CHECK(r.chosen[2 * i] + r.chosen[2 * i + 1] == 1 + 3);
        for (index_t i = 2; i < 4; ++i) CHECK(r.chosen[2 * i] + r.chosen[2 * i + 1] == 0 - 1);
        return;
    }
    FAIL("no experts ran");
}

TEST_CASE("router: what it refuses", "[layer][router]") {
    const auto w = random_params<masked, double>(5);
    const auto x = normal_numbers<double>(14, 6);
    tape<masked, double> t;
    auto rows = batch::equal(2, 1);
    CHECK_THROWS_WITH(run_forward(w, x, rows, t), Contains("which experts each sequence may use"));
    rows.with_allowed_experts({1, 1, 1, 1, 1, 1}, 3);
    CHECK_THROWS_WITH(run_forward(w, x, rows, t), Contains("must have 4 columns"));
    CHECK_THROWS_WITH(rows.with_allowed_experts({1, 1, 1}, 4),
                      Contains("must have 8 values, one per sequence and expert, got 3"));
    CHECK_THROWS_WITH(rows.with_allowed_experts({}, 0), Contains("'experts' must be positive"));
    // A batch that is assigned again forgets its masks.
    rows.with_allowed_experts({1, 1, 1, 1, 1, 1, 1, 1}, 4);
    CHECK(run_infer(w, x, rows, t).size() == 18);
    rows.assign_equal(2, 1);
    CHECK_THROWS_WITH(run_infer(w, x, rows, t), Contains("which experts each sequence may use"));

    const auto v = random_params<stelo, double>(5);
    stream<stelo, double> s(4);
    CHECK_THROWS_WITH(decode(v, matrix_view<const double>(x.data(), 2, 7), s),
                      Contains("scores whole sequences"));
}

TEST_CASE("router: gates per sequence in float, with threads, and without tokens", "[layer][router]") {
    CHECK(float_distance<stelo>(batch::ragged({4, 1, 0, 9}), 5) < 5e-5);
    CHECK(same_for_threads<stelo>(batch::ragged({40, 1, 0, 300, 2, 2, 64, 100, 5, 90, 33, 8})));
    CHECK(nothing_from_no_token<stelo>());
    CHECK(nothing_from_no_token<masked>());
}
