#include <mox/route/top_p.hpp>

#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

template <class Selector>
std::vector<row_t> chosen_of(const std::vector<double>& p) {
    const auto n = static_cast<index_t>(p.size());
    route::router_view<double> r;
    r.logits = r.probability = {p.data(), 1, n};
    r.experts = r.slots = n;
    std::vector<row_t> chosen(p.size(), 77);
    Selector::select({}, r, chosen.data());
    return chosen;
}

}  // namespace

TEST_CASE("top_p: up to the expert that passes the sum, that one included", "[route][top_p]") {
    using eight = route::top_p<coefficient{0.8}>;
    CHECK(chosen_of<eight>({0.05, 0.7, 0.04, 0.21}) == std::vector<row_t>{1, 3, -1, -1});
    CHECK(chosen_of<eight>({0.9, 0.05, 0.03, 0.02}) == std::vector<row_t>{0, -1, -1, -1});
    CHECK(chosen_of<eight>({0.25, 0.25, 0.25, 0.25}) == std::vector<row_t>{0, 1, 2, 3});
    // To reach it is not to pass it.
    CHECK(chosen_of<route::top_p<coefficient{0.5}>>({0.25, 0.25, 0.25, 0.25}) ==
          std::vector<row_t>{0, 1, 2, -1});
    CHECK(chosen_of<route::top_p<coefficient{0.49}>>({0.25, 0.25, 0.25, 0.25}) ==
          std::vector<row_t>{0, 1, -1, -1});
    CHECK(chosen_of<route::top_p<coefficient{0.8}, 1>>({0.25, 0.25, 0.25, 0.25}) ==
          std::vector<row_t>{0, -1, -1, -1});
    CHECK(chosen_of<route::top_p<coefficient{2.0}>>({0.1, 0.9}) == std::vector<row_t>{1, 0});
}

TEST_CASE("top_p: gradients in a bank and in mixlora", "[route][top_p]") {
    constexpr adapter_spec rank2{.rank = 2, .alpha = 5};
    constexpr mixlora_spec spec{.adapter = rank2};
    using eight = route::top_p<coefficient{0.8}>;
    const auto rows = batch::ragged({3, 0, 5});
    CHECK(gradcheck<lora_experts<linear<7, 9>, 4, rank2, eight, gate::softmax, balance::load<>>>({}, rows)
              .passed);
    CHECK(gradcheck<mixlora<7, 5, activation::silu, 4, spec, eight, gate::softmax>>({}, rows).passed);
}
