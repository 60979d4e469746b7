#include <mox/layer/observer.hpp>

#include <vector>

#include "../support/catch.hpp"

namespace {

struct looks_once {
    int seen = 0;
    void operator()(const mox::observation<float>& o) { seen += static_cast<int>(o.index); }
};
struct adds_one : looks_once {
    void backward(const mox::observation<float>&, mox::matrix_view<float> dx) { dx(0, 0) += 1; }
};

}  // namespace

TEST_CASE("observer_ref: nobody, who only looks, who adds to a gradient", "[layer][observer]") {
    std::vector<float> values{2};
    const mox::matrix_view<float> dx(values.data(), 1, 1);
    const mox::observation<float> seen{3, nullptr, {}};
    const mox::observer_ref<float> nobody;
    nobody.forward(seen);
    nobody.backward(seen, dx);
    CHECK(values[0] == 2);

    looks_once once;
    const mox::observer_ref<float> a(once);
    a.forward(seen);
    a.backward(seen, dx);
    CHECK(once.seen == 3);
    CHECK(values[0] == 2);

    adds_one adds;
    const mox::observer_ref<float> b(adds), copy = b;
    copy.forward(seen);
    copy.backward(seen, dx);
    CHECK(adds.seen == 3);
    CHECK(values[0] == 3);
}
