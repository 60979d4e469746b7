// Experts that share a frozen feed-forward network against the authors' code.

#include <string>

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

template <class Net, class T>
void check(const std::string& name, double bound) {
    INFO(name);
    adapter_case<Net, T> r(name);
    CHECK(r.task_error() < bound);
    CHECK(r.routing_error() < bound);
    CHECK(r.loss_error("balance") < bound);
}

}  // namespace

TEST_CASE("golden: mixlora", "[golden][lora]") {
    constexpr mox::mixlora_spec basic{.adapter = {.rank = 3, .alpha = 6}},
        idle{.adapter = {.rank = 2, .alpha = 4}}, partial{.adapter = {.rank = 2, .alpha = 2}, .up = false};
    using basics = layer<10, 14, 4, basic, 2>;
    using idles = layer<8, 11, 5, idle, 2>;
    using partials = layer<9, 7, 3, partial, 2>;
    check<basics, double>("mixlora-basic", exact);
    check<basics, float>("mixlora-basic", rounded);
    check<idles, double>("mixlora-idle", exact);
    check<idles, float>("mixlora-idle", rounded);
    check<partials, double>("mixlora-partial", exact);
    check<partials, float>("mixlora-partial", rounded);
    for (const std::string name : {"mixlora-basic", "mixlora-idle", "mixlora-partial"})
        CHECK(mox_test::unread(name) == mox_test::nothing);
}
