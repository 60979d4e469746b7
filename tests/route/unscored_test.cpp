#include <mox/route/unscored.hpp>

#include <vector>

#include <mox/layer/lora_experts.hpp>
#include <mox/route/by_label.hpp>
#include <mox/route/top_k.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;

TEST_CASE("unscored: no tensor and no work, and all experts tie", "[route][unscored]") {
    constexpr adapter_spec rank2{.rank = 2, .alpha = 5};
    using bank = lora_experts<linear<7, 9>, 5, rank2, route::unscored, route::top_k<2>>;
    using chosen = lora_experts<linear<7, 9>, 5, rank2, route::top_k<2>>;
    STATIC_REQUIRE(bank::routing::tensor_count == 0);
    STATIC_REQUIRE(bank::flops(1) == chosen::flops(1) - 2.0 * 7 * 5);
    const auto w = mox_test::random_params<bank, double>(3);
    const auto x = mox_test::normal_numbers<double>(7 * 12, 1);
    tape<bank, double> t;
    mox_test::run_forward(w, x, batch::ragged({5, 0, 7}), t);
    const routing_record& r = t.routing()[0];
    for (index_t token = 0; token < 12; ++token) {
        CHECK((r.chosen[2 * token] == 0 && r.chosen[2 * token + 1] == 1));
        CHECK((r.gate(token, 0) == 0.5 && r.gate(token, 1) == 0.5));
    }
}
