#include <mox/kernel/reference/attention.hpp>

#include <cmath>
#include <vector>

#include "../../support/catch.hpp"
#include "../../support/layers.hpp"

using namespace mox;
using mox_test::normal_numbers;
namespace plain = kernel::reference;

namespace {

using numbers = std::vector<double>;

// Grouped heads, more keys than queries.
struct attention_case {
    static constexpr index_t heads = 4, kv_heads = 2, d = 3, n_q = 3, n_k = 5;
    static constexpr double scale = 0.7;
    bool causal = true;
    numbers q = normal_numbers<double>(n_q * heads * d, 1), k = normal_numbers<double>(n_k * kv_heads * d, 2),
            v = normal_numbers<double>(n_k * kv_heads * d, 3),
            dout = normal_numbers<double>(n_q * heads * d, 4), dreceived = normal_numbers<double>(n_k, 5);
    numbers out = q, received = numbers(n_k), lse = numbers(n_q * heads);

    static matrix_view<double> queries(numbers& m) { return {m.data(), n_q, heads * d}; }
    static matrix_view<double> keys(numbers& m) { return {m.data(), n_k, kv_heads * d}; }
    // <dout, out> + <dreceived, received>.
    double value() {
        plain::attention<double>(heads, kv_heads, d, causal, scale, queries(q), keys(k), keys(v),
                                 queries(out), received.data(), lse.data());
        double sum = 0;
        for (std::size_t i = 0; i < out.size(); ++i) sum += dout[i] * out[i];
        for (std::size_t j = 0; j < received.size(); ++j) sum += dreceived[j] * received[j];
        return sum;
    }
    numbers slope(numbers& of) {
        return mox_test::central_differences(of, [&] { return value(); });
    }
};

}  // namespace

TEST_CASE("plain attention: by hand, with a mask and without", "[kernel][reference]") {
    // Scores log 3 and 0: weights 3/4 and 1/4. The first of two causal queries sees one key of two.
    const numbers q{1, 1}, k{std::log(3.0), 0}, v{4, 8};
    numbers out(2), received(2), lse(2);
    const auto view = [](auto& m) { return matrix_view{m.data(), 2, 1}; };
    plain::attention<double>(1, 1, 1, false, 1.0, view(q), view(k), view(v), view(out), received.data(),
                             lse.data());
    CHECK(mox_test::distance(out, numbers{5, 5}) < 1e-15);
    CHECK(mox_test::distance(received, numbers{1.5, 0.5}) < 1e-15);
    CHECK(mox_test::distance(lse, numbers{std::log(4.0), std::log(4.0)}) < 1e-15);
    plain::attention<double>(1, 1, 1, true, 1.0, view(q), view(k), view(v), view(out), received.data());
    CHECK(mox_test::distance(out, numbers{4, 5}) < 1e-15);
    CHECK(mox_test::distance(received, numbers{1.75, 0.25}) < 1e-15);
}

TEST_CASE("plain attention: gradients against central differences", "[kernel][reference]") {
    for (const bool causal : {true, false}) {
        attention_case c{causal};
        numbers dq(c.q.size(), 9), dk(c.k.size(), 9), dv(c.v.size(), 9);
        plain::attention_backward<double>(c.heads, c.kv_heads, c.d, causal, c.scale, c.queries(c.q),
                                          c.keys(c.k), c.keys(c.v), c.queries(c.dout), c.dreceived.data(),
                                          c.queries(dq), c.keys(dk), c.keys(dv));
        CHECK(mox_test::distance(dq, c.slope(c.q)) < 1e-8);
        CHECK(mox_test::distance(dk, c.slope(c.k)) < 1e-8);
        CHECK(mox_test::distance(dv, c.slope(c.v)) < 1e-8);
        // Every query gives one to the keys it sees, per head.
        c.value();
        double sum = 0;
        for (const double r : c.received) sum += r;
        CHECK(sum == Approx(c.heads * c.n_q).epsilon(1e-14));
        // Nobody wants the attention received.
        c.dreceived.assign(5, 0.0);
        plain::attention_backward<double>(c.heads, c.kv_heads, c.d, causal, c.scale, c.queries(c.q),
                                          c.keys(c.k), c.keys(c.v), c.queries(c.dout), nullptr, c.queries(dq),
                                          c.keys(dk), c.keys(dv));
        CHECK(mox_test::distance(dq, c.slope(c.q)) < 1e-8);
    }
}

TEST_CASE("plain attention: no query, no key", "[kernel][reference]") {
    numbers k(4, 1.0), dk(4, 9.0), dv(4, 9.0), received(2, 9.0);
    const matrix_view<const double> none(nullptr, 0, 2), keys(k.data(), 2, 2);
    plain::attention<double>(1, 1, 2, true, 1.0, none, keys, keys, {}, received.data());
    CHECK(received == numbers{0, 0});
    plain::attention_backward<double>(1, 1, 2, true, 1.0, none, keys, keys, none, nullptr, {},
                                      {dk.data(), 2, 2}, {dv.data(), 2, 2});
    CHECK(dk == numbers(4, 0.0));
    CHECK(dv == numbers(4, 0.0));
}
