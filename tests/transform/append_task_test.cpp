#include <mox/transform/append_task.hpp>

#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using Catch::Matchers::Contains;
using mox_test::distance;
using mox_test::normal_numbers;
using mox_test::random_params;
using mox_test::run_forward;

namespace {

constexpr adapter_spec task1{.rank = 3, .alpha = 6}, task2{.rank = 4, .alpha = 4, .kept_ranks = 3},
    task3{.rank = 2, .alpha = 6, .kept_ranks = 7};
using every = rank_gate::self_activated<100, coefficient{0.3}>;
template <adapter_spec Spec, class Gate>
using net = stack<lora<linear<5, 6>, Spec, Gate>,
                  residual<rms_norm<6>, lora<linear<6, 6, bias::with>, Spec, Gate>>, linear<6, 4>>;

}  // namespace

TEST_CASE("append_task: without a gate, the new task starts as the old ones", "[transform][append_task]") {
    using all = rank_gate::all;
    const auto first = random_params<net<task1, all>, double>(3);
    params<net<task2, all>, double> second{init::standard, 4};
    CHECK(append_task(first, second) == 2);
    const auto x = normal_numbers<double>(7 * 5, 1);
    const auto rows = batch::equal(1, 7);
    tape<net<task1, all>, double> t1;
    tape<net<task2, all>, double> t2;
    CHECK(distance(run_forward(second, x, rows, t2), run_forward(first, x, rows, t1)) < 1e-13);

    // The second task learns something, and is kept behind the first.
    auto b = second.read("0.b");
    for (double& v : b) v += 0.3;
    second.write("0.b", b);
    params<net<task3, all>, double> third{init::standard, 5};
    CHECK(append_task(second, third) == 2);
    tape<net<task3, all>, double> t3;
    CHECK(distance(run_forward(third, x, rows, t3), run_forward(second, x, rows, t2)) < 1e-13);
    const auto kept = third.read("0.kept_a"), a1 = first.read("0.a"), a2 = second.read("0.a");
    CHECK(std::equal(a1.begin(), a1.end(), kept.begin()));
    CHECK(std::equal(a2.begin(), a2.end(), kept.begin() + 15));
}

TEST_CASE("append_task: new ranks without B change the output through the weights only",
          "[transform][append_task]") {
    const auto first = random_params<net<task1, every>, double>(3);
    params<net<task2, every>, double> second{init::standard, 4};
    (void)append_task(first, second);
    const auto x = normal_numbers<double>(5, 1);
    const auto rows = batch::equal(1, 1);
    tape<net<task2, every>, double> t;
    run_forward(second, x, rows, t);
    // The first layer by hand, with the weights that it reports.
    using layer = lora<linear<5, 6>, task2, every>;
    params<layer, double> alone;
    for (const std::string name : {"a", "b", "kept_a", "kept_b", "0.0.weight"})
        alone.write(name, second.read("0." + name));
    tape<layer, double> u;
    const auto y = run_forward(alone, x, rows, u);
    const auto a = first.read("0.a"), b = first.read("0.b"), base = first.read("0.0.0.weight");
    std::vector<double> expected(6, 0.0);
    for (std::size_t o = 0; o < 6; ++o) {
        for (std::size_t i = 0; i < 5; ++i) expected[o] += x[i] * base[i * 6 + o];
    }
    double weight = 0;
    for (index_t j = 0; j < 7; ++j) {
        const row_t rank = u.routing()[0].chosen[j];
        weight += u.routing()[0].gate(0, j);
        if (rank >= 3) continue;
        double z = 0;
        for (std::size_t i = 0; i < 5; ++i) z += x[i] * a[static_cast<std::size_t>(rank) * 5 + i];
        for (std::size_t o = 0; o < 6; ++o)
            expected[o] += 2 * u.routing()[0].gate(0, j) * z * b[static_cast<std::size_t>(rank) * 6 + o];
    }
    CHECK(weight == Approx(1));
    CHECK(distance(y, expected) < 1e-13);
}

TEST_CASE("append_task: what does not continue is refused", "[transform][append_task]") {
    using all = rank_gate::all;
    const auto first = random_params<net<task1, all>, double>(3);
    params<net<task3, all>, double> third{init::standard, 5};
    CHECK_THROWS_WITH(append_task(first, third), Contains("as many kept ranks"));
    params<stack<lora<linear<5, 6>, task2, all>, linear<6, 3>>, double> other{init::standard, 5};
    const auto before = other.read("0.kept_a");
    CHECK_THROWS(append_task(first, other));
    CHECK(other.read("0.kept_a") == before);
}
