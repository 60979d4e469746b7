// Experts that share a frozen feed-forward network against the authors' code.

#include <mox/mox.hpp>

#include "../support/adapter_case.hpp"
#include "../support/catch.hpp"

using mox::index_t;
using mox_test::adapter_case;
using mox_test::exact;

namespace {

// Sums of at most 14 products through five maps, a softmax and an activation, in float.
constexpr double rounded = 1e-4;

template <index_t D, index_t H, index_t E, mox::mixlora_spec Spec, index_t K>
using layer = mox::mixlora<D, H, mox::activation::silu, E, Spec, mox::route::top_k<K>,
                           mox::balance::load<mox::coefficient{static_cast<double>(K)}>>;

template <class Net>
void check(const std::string& name) {
    adapter_case<Net, double> r(name);
    r.check_task(exact);
    r.check_routing();
    r.check_loss("balance", exact);
    adapter_case<Net, float> f(name);
    f.check_task(rounded);
    f.check_routing();
    f.check_loss("balance", rounded);
}

}  // namespace

TEST_CASE("golden: mixlora", "[golden][lora]") {
    constexpr mox::mixlora_spec basic{.adapter = {.rank = 3, .alpha = 6}},
        idle{.adapter = {.rank = 2, .alpha = 4}}, partial{.adapter = {.rank = 2, .alpha = 2}, .up = false};
    check<layer<10, 14, 4, basic, 2>>("mixlora-basic");
    check<layer<8, 11, 5, idle, 2>>("mixlora-idle");
    check<layer<9, 7, 3, partial, 2>>("mixlora-partial");
}
