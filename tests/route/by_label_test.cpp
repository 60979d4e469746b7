#include <mox/route/by_label.hpp>

#include <vector>

#include <mox/layer/lora.hpp>
#include <mox/layer/lora_experts.hpp>
#include <mox/train/gradcheck.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using Catch::Matchers::Contains;

namespace {

// The choices of a batch: one sequence between each two offsets.
std::vector<row_t> choose(const std::vector<row_t>& offsets, const std::vector<row_t>& labels,
                          index_t experts, index_t nulls = 0) {
    const std::vector<double> logits(static_cast<std::size_t>(offsets.back() * (experts + nulls)), 1.0);
    route::router_view<double> r;
    r.logits = {logits.data(), offsets.back(), experts + nulls};
    r.experts = experts;
    r.slots = 1;
    r.sequences = static_cast<index_t>(offsets.size()) - 1;
    r.sequence_offsets = offsets.data();
    r.sequence_labels = labels.empty() ? nullptr : labels.data();
    std::vector<row_t> chosen(static_cast<std::size_t>(offsets.back()), -7);
    route::by_label::select<double>({}, r, chosen.data());
    return chosen;
}

constexpr adapter_spec rank2{.rank = 2, .alpha = 5};
using bank = lora_experts<linear<7, 9>, 3, rank2, route::by_label, gate::one>;

}  // namespace

TEST_CASE("by_label: all tokens of a sequence use the expert of its label", "[route][by_label]") {
    CHECK(choose({0, 2, 5, 6}, {1, 3, 0}, 4) == std::vector<row_t>{1, 1, 3, 3, 3, 0});
    CHECK(choose({0, 3}, {0}, 1) == std::vector<row_t>{0, 0, 0});
    STATIC_REQUIRE(route::slots_of<route::by_label, 4> == 1);
}

TEST_CASE("by_label: sequences without tokens, and no token at all", "[route][by_label]") {
    CHECK(choose({0, 0, 2, 2, 3}, {3, 1, 2, 0}, 4) == std::vector<row_t>{1, 1, 0});
    CHECK(choose({0}, {}, 4).empty());
    CHECK(choose({0, 0}, {}, 4).empty());
}

TEST_CASE("by_label: says what is wrong with the labels", "[route][by_label][error]") {
    CHECK_THROWS_WITH(choose({0, 2}, {}, 4),
                      Contains("mox::route::by_label: the batch must have labels, one per sequence") &&
                          Contains("batch::with_labels"));
    CHECK_THROWS_WITH(choose({0, 2, 3}, {0, 4}, 4),
                      Contains("argument 'labels' must hold values from 0 to 3, got 4 at position 1"));
    CHECK_THROWS_WITH(choose({0, 2}, {-1}, 4), Contains("got -1 at position 0"));
    // A null expert has a number behind the experts, and no label.
    CHECK_THROWS_WITH(choose({0, 2}, {4}, 4, 2), Contains("values from 0 to 3, got 4"));
}

TEST_CASE("by_label: gradients of a bank, which has no router", "[route][by_label]") {
    auto rows = batch::ragged({3, 0, 5, 2});
    rows.with_labels({1, 0, 0, 2});
    for (const auto& info : params<bank>::tensors()) CHECK(info.path != "router");
    STATIC_REQUIRE(bank::flops(1) == linear<7, 9>::flops(1) + 2.0 * 2 * (7 + 9));
    // One that is asked for is there.
    using scored = lora_experts<linear<7, 9>, 3, rank2, route::by_label, route::linear_scorer, gate::one>;
    CHECK(params<scored>::tensors()[0].path == "router");
    const auto r = gradcheck<bank>({}, rows);
    INFO(r.message);
    CHECK(r.passed);
    CHECK(r.worst() < 1e-8);
    CHECK(mox_test::same_for_threads<bank>(rows));
}

TEST_CASE("by_label: many adapters in one batch are each adapter alone", "[route][by_label]") {
    using mox_test::distance;
    using mox_test::run_forward;
    using alone = lora<linear<7, 9>, rank2>;
    const auto w = mox_test::random_params<bank, double>(4);
    auto rows = batch::ragged({4, 1, 0, 6});
    rows.with_labels({2, 0, 1, 1});
    const auto x = mox_test::normal_numbers<double>(77, 1);
    tape<bank, double> t;
    const auto y = run_forward(w, x, rows, t);
    const std::vector<std::pair<index_t, index_t>> parts{{0, 4}, {4, 5}, {5, 11}};
    const std::vector<std::size_t> adapters{2, 0, 1};
    for (std::size_t p = 0; p < parts.size(); ++p) {
        const auto [begin, end] = parts[p];
        params<alone, double> one;
        const auto a = w.read("a"), b = w.read("b");
        const std::size_t e = adapters[p];
        one.write("a", std::vector<double>(a.begin() + static_cast<std::ptrdiff_t>(14 * e),
                                           a.begin() + static_cast<std::ptrdiff_t>(14 * e + 14)));
        one.write("b", std::vector<double>(b.begin() + static_cast<std::ptrdiff_t>(18 * e),
                                           b.begin() + static_cast<std::ptrdiff_t>(18 * e + 18)));
        one.write("0.0.weight", w.read("0.0.weight"));
        tape<alone, double> u;
        const std::vector<double> part(x.begin() + 7 * begin, x.begin() + 7 * end);
        const auto z = run_forward(one, part, batch::equal(1, end - begin), u);
        CHECK(distance(std::vector<double>(y.begin() + 9 * begin, y.begin() + 9 * end), z) < 1e-14);
    }
    CHECK_THROWS_WITH(run_forward(w, x, batch::ragged({4, 1, 0, 6}), t),
                      Contains("the batch must have labels"));
    rows.with_labels({2, 0, 3, 1});
    CHECK_THROWS_WITH(run_forward(w, x, rows, t), Contains("must hold values from 0 to 2, got 3"));
    CHECK_THROWS_WITH(rows.with_labels({1, 2}), Contains("must have 4 values, one per sequence, got 2"));
}
