#include <mox/model/input_statistics.hpp>

#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using Catch::Matchers::Contains;
using mox_test::normal_numbers;
using mox_test::random_params;
using mox_test::run_infer;

namespace {

constexpr attention_spec heads{.width = 8, .heads = 2};
using net = stack<linear<6, 8>, repeat<2, observed<residual<swiglu<8, 4>>>>,
                  frozen<attention<heads, mask::causal, as_observed<>>>, observed<linear<8, 5>>>;

// A collector in a few lines.
struct row_count {
    index_t width, rows = 0;
    explicit row_count(index_t w) : width(w) {}
    template <class T>
    void add(matrix_view<const T> x) {
        REQUIRE(x.cols == width);
        rows += x.rows;
    }
};

}  // namespace

TEST_CASE("input_statistics: one collector for each observed layer, by its path",
          "[model][input_statistics]") {
    input_statistics<net, row_count> inputs;
    std::vector<std::string> paths, places;
    for (const auto& e : inputs.entries()) {
        paths.push_back(e.path);
        places.push_back(e.place);
    }
    CHECK(paths == std::vector<std::string>{"1.0", "1.1", "2.0.qkv", "2.0.out", "3"});
    CHECK(places == std::vector<std::string>{"1.0", "1.1", "2.qkv", "2.out", "3"});
    const auto w = random_params<net, double>(1);
    tape<net, double> t;
    t.observe(inputs);
    const auto x = normal_numbers<double>(42, 1);
    run_infer(w, x, batch::ragged({4, 3}), t);
    run_infer(w, x, batch::ragged({4, 3}), t);
    for (const auto& e : inputs.entries()) CHECK(e.inputs.rows == 14);
    CHECK(inputs.at("2.qkv").width == 8);
    CHECK(&inputs.at("2.0.qkv") == &inputs.at("2.qkv"));
    CHECK_THROWS_WITH(inputs.at("0"),
                      Contains("no observed layer '0'") && Contains("'1.0', '1.1', '2.0.qkv'"));
}

TEST_CASE("input_statistics: the statistics of another network are refused", "[model][input_statistics]") {
    using other = stack<observed<linear<6, 8>>, observed<linear<8, 5>>>;
    input_statistics<other, row_count> inputs;
    const auto w = random_params<net, double>(1);
    tape<net, double> t;
    t.observe(inputs);
    CHECK_THROWS_WITH(run_infer(w, normal_numbers<double>(6, 1), batch::equal(1, 1), t),
                      Contains("of another network"));
}
