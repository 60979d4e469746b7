// One mixture-of-experts layer with SwiGLU experts: router, selection, experts, combination.

#include <mox/mox.hpp>

#include "support/moe_problem.hpp"

namespace {

using mox::index_t;

using layer = mox::moe<mox::experts<8, mox::swiglu<512, 1024>>, mox::route::top_k<2>>;
constexpr bench::moe_shape shape{512, 512, 1024, 8, 2};

using mox_layer = bench::steps<layer>;

const bench::registration add([](std::vector<bench::group>& groups) {
    constexpr index_t tokens = shape.tokens;
    bench::moe_problems()[shape.name()] = &bench::solve<layer>;
    groups.push_back(
        {"moe_swiglu/forward/" + shape.name(),
         shape.flops(),
         bench::limit::fma_f32,
         {{0.90, 0, ""},
          {0, 2.0, "eigen_by_token"},
          {0, 1.2, "eigen"},
          {.peer = "mox_2_threads", .at_least = 1.9}},
         {{"mox", bench::run(&mox_layer::infer, index_t{1}, index_t{1}, tokens)},
          {"mox_2_threads", bench::run(&mox_layer::infer, index_t{2}, index_t{1}, tokens), 0, 2}}});
    groups.push_back(
        {"moe_swiglu/forward_backward/" + shape.name(),
         3 * shape.flops(),
         bench::limit::fma_f32,
         {{0.80, 0, ""}, {0, 1.2, "eigen"}, {.peer = "mox_2_threads", .at_least = 1.9}},
         {{"mox", bench::run(&mox_layer::train, index_t{1}, index_t{1}, tokens)},
          {"mox_2_threads", bench::run(&mox_layer::train, index_t{2}, index_t{1}, tokens), 0, 2}}});
});

}  // namespace
