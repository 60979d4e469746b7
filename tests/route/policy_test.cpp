#include <mox/route/policy.hpp>

#include <type_traits>
#include <vector>

#include <mox/route/balance.hpp>
#include <mox/route/capacity.hpp>
#include <mox/route/gate.hpp>
#include <mox/route/null_experts.hpp>
#include <mox/route/top_k.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

template <class Kind, class... Ps>
using all = route::all_of_kind<Kind, Ps...>;

struct no_policy {};

}  // namespace

TEST_CASE("policy: kinds are found by their tag, in order, wherever they stand", "[route][policy]") {
    using z = balance::z_loss<>;
    using load = balance::load<>;
    static_assert(std::is_same_v<all<route::balance_policy, z, route::top_k<2>, load>, leaves<z, load>>);
    static_assert(std::is_same_v<all<route::balance_policy, load, gate::softmax, z>, leaves<load, z>>);
    static_assert(
        std::is_same_v<all<route::selector_policy, z, route::top_k<2>, load>, leaves<route::top_k<2>>>);
    static_assert(std::is_same_v<all<route::capacity_policy, z, load>, leaves<>>);
    static_assert(std::is_same_v<all<route::capacity_policy>, leaves<>>);
    static_assert(
        std::is_same_v<all<route::gate_policy, no_policy, int, gate::softmax>, leaves<gate::softmax>>);
    SUCCEED();
}

TEST_CASE("policy: a default stands in for a missing kind only", "[route][policy]") {
    static_assert(
        std::is_same_v<route::one_of_kind<route::gate_policy, gate::renormalised>, gate::renormalised>);
    static_assert(std::is_same_v<
                  route::one_of_kind<route::gate_policy, gate::renormalised, null_experts<2>, gate::softmax>,
                  gate::softmax>);
    static_assert(
        std::is_same_v<route::one_of_kind<route::capacity_policy, capacity::dropless, capacity::factor<1250>>,
                       capacity::factor<1250>>);
    SUCCEED();
}

TEST_CASE("policy: a router view finds a token's choices and its sizes", "[route][policy]") {
    const std::vector<double> logits(3 * 5);
    const std::vector<row_t> chosen{4, 1, 0, 2, 3, 0};
    route::router_view<double> r;
    r.logits = matrix_view<const double>(logits.data(), 3, 5);
    r.chosen = chosen.data();
    r.slots = 2;
    CHECK(r.tokens() == 3);
    CHECK(r.outputs() == 5);
    CHECK(r.chosen_by(0)[1] == 1);
    CHECK(r.chosen_by(2)[0] == 3);
}
