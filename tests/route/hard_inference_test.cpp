#include <mox/route/hard_inference.hpp>

#include <vector>

#include "../support/catch.hpp"

using namespace mox;

TEST_CASE("hard_inference: all experts in training, the best one in inference", "[route][hard_inference]") {
    const std::vector<double> logits{0.5, 2, 2, -1, 3, -7, 1, 3};
    route::router_view<double> r;
    r.logits = {logits.data(), 2, 4};
    r.experts = r.slots = 4;
    std::vector<row_t> chosen(8, 77);
    r.training = true;
    route::hard_inference::select({}, r, chosen.data());
    CHECK(chosen == std::vector<row_t>{0, 1, 2, 3, 0, 1, 2, 3});
    r.training = false;
    route::hard_inference::select({}, r, chosen.data());
    CHECK(chosen == std::vector<row_t>{1, -1, -1, -1, 0, -1, -1, -1});
}

TEST_CASE("soft_training: all experts in training, the best k in inference", "[route][hard_inference]") {
    const std::vector<double> logits{0.5, 2, 2, -1, 3, -7, 1, 3};
    route::router_view<double> r;
    r.logits = {logits.data(), 2, 4};
    r.experts = r.slots = 4;
    std::vector<row_t> chosen(8, 77);
    route::soft_training<3>::select({}, r, chosen.data());
    CHECK(chosen == std::vector<row_t>{0, 1, 2, 3, 0, 1, 2, 3});
    r.training = false;
    route::soft_training<3>::select({}, r, chosen.data());
    CHECK(chosen == std::vector<row_t>{1, 2, 0, -1, 0, 3, 2, -1});
    // More than there are is all of them.
    route::soft_training<9>::select({}, r, chosen.data());
    CHECK(chosen == std::vector<row_t>{1, 2, 0, 3, 0, 3, 2, 1});
}
