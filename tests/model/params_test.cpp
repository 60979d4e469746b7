#include <mox/model/params.hpp>

#include <numeric>
#include <string>
#include <vector>

#include <mox/compose/repeat.hpp>
#include <mox/compose/residual.hpp>
#include <mox/compose/stack.hpp>
#include <mox/layer/attention.hpp>
#include <mox/layer/depth.hpp>
#include <mox/layer/moe.hpp>
#include <mox/layer/norm.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;

constexpr index_t D = 10;
constexpr mox::attention_spec heads{.width = D, .heads = 5};
// Every storage form, with widths that fill no register: vectors, rows, panels, gated panels, stacks of them.
using block =
    mox::residual<mox::layer_norm<D>,
                  mox::moe<mox::experts<3, mox::swiglu<D, 37>>, mox::route::top_k<2>, mox::null_experts<2>,
                           mox::shared<mox::mlp<D, 21, mox::activation::gelu, mox::bias::with>>>>;
using net = mox::stack<
    mox::embedding<13, D>, mox::repeat<2, mox::stack<mox::residual<mox::attention<heads>>, block>>,
    mox::depth<mox::residual<mox::moe<mox::experts<3, mox::mlp<D, 9, mox::activation::gelu, mox::bias::with>>,
                                      mox::route::top_k<1>>>,
               mox::route::learned, mox::keep_permille<500>>,
    mox::linear<D, 13, mox::bias::with>>;

}  // namespace

TEMPLATE_TEST_CASE("what is written is read, for every storage form", "[model][params]", float, double) {
    using P = mox::params<net, TestType>;
    P p;
    std::vector<std::vector<TestType>> all;
    TestType next = 1;
    for (const auto& t : P::tensors()) {
        std::vector<TestType> v(static_cast<std::size_t>(t.spec.logical_size()));
        std::iota(v.begin(), v.end(), next);
        next += static_cast<TestType>(v.size());
        p.write(t.path, v);
        all.push_back(std::move(v));
    }
    // Read after everything was written, so that overlapping tensors would be seen.
    std::size_t i = 0;
    for (const auto& t : P::tensors()) {
        INFO(t.path);
        REQUIRE(p.read(t.path) == all[i]);
        REQUIRE(p.read(t) == all[i]);
        ++i;
    }
    // Nothing but these numbers is in the buffer: the padding stays zero.
    double sum = 0, present = 0;
    for (const TestType x : p.flat()) sum += static_cast<double>(x);
    for (const auto& v : all) {
        for (const TestType x : v) present += static_cast<double>(x);
    }
    REQUIRE(sum == present);
    const auto n = static_cast<double>(P::count());
    REQUIRE(sum == n * (n + 1) / 2);
}

TEST_CASE("every form appears in the test network", "[model][params]") {
    int forms[4] = {0, 0, 0, 0};
    for (const auto& t : mox::params<net>::tensors()) ++forms[static_cast<int>(t.spec.form)];
    for (const int n : forms) REQUIRE(n > 0);
}

TEST_CASE("count is the count by hand", "[model][params]") {
    const index_t attention = D * 3 * D + D * D;
    const index_t mixture = 2 * D + D * (3 + 2) + 3 * (D * 2 * 37 + 37 * D) + (D * 21 + 21 * D + 21 + D);
    const index_t sparse = D + D * 3 + 3 * (D * 9 + 9 * D + 9 + D);
    const index_t want = 13 * D + 2 * (attention + mixture) + sparse + D * 13 + 13;
    REQUIRE(mox::params<net, float>::count() == want);
    REQUIRE(mox::params<net, double>::count() == want);
    REQUIRE(static_cast<index_t>(mox::params<net>().flat().size()) >= want);
}

TEST_CASE("a weight is where y = x W puts it", "[model][params]") {
    // Logical values are row-major [rows, cols], rows are inputs: checked against the layer, not the layout.
    using one = mox::stack<mox::linear<3, 5>>;
    mox::params<one, double> p;
    std::vector<double> w(15);
    std::iota(w.begin(), w.end(), 1.0);
    p.write("0.weight", w);
    const double x[3] = {1, 10, 100};
    double y[8] = {};
    mox::arena saved, scratch, kept;
    mox::context<double> ctx;
    ctx.saved = &saved;
    ctx.scratch = &scratch;
    ctx.kept = &kept;
    one::forward<double>(ctx, std::as_const(p).ref(), mox::matrix_view<const double>(x, 1, 3),
                         mox::matrix_view<double>(y, 1, 5, 8));
    for (std::size_t j = 0; j < 5; ++j) REQUIRE(y[j] == w[j] + 10 * w[5 + j] + 100 * w[10 + j]);
}

TEST_CASE("paths name the way through the network, repeated blocks count on", "[model][params]") {
    std::vector<std::string> paths;
    for (const auto& t : mox::params<net>::tensors()) paths.push_back(t.path);
    const std::vector<std::string> block_paths{"0.0.qkv",    "0.0.out",       "1.0.gain",       "1.0.shift",
                                               "1.1.router", "1.1.gate_up",   "1.1.down",       "1.1.0.up",
                                               "1.1.0.down", "1.1.0.up_bias", "1.1.0.down_bias"};
    std::vector<std::string> want{"0.table"};
    for (const char* copy : {"1.0.", "1.1."}) {
        for (const auto& p : block_paths) want.push_back(copy + p);
    }
    for (const char* p : {"2.router", "2.0.0.router", "2.0.0.up", "2.0.0.down", "2.0.0.up_bias",
                          "2.0.0.down_bias", "3.weight", "3.bias"}) {
        want.push_back(p);
    }
    REQUIRE(paths == want);
}

TEST_CASE("an unknown path and a wrong size say what there is", "[model][params]") {
    using small = mox::stack<mox::linear<2, 3, mox::bias::with>, mox::rms_norm<3>>;
    mox::params<small> p;
    REQUIRE_THROWS_WITH(
        p.read("1.bias"),
        "mox::params::read: there is no tensor '1.bias'; this network has 0.weight, 0.bias, 1.gain");
    const std::vector<float> six(6);
    REQUIRE_THROWS_WITH(
        p.write("weight", six),
        "mox::params::write: there is no tensor 'weight'; this network has 0.weight, 0.bias, 1.gain");
    REQUIRE_THROWS_WITH(
        p.write("0.bias", six),
        "mox::params::write: argument 'values' must have 3 elements (tensor '0.bias'), got 6");
    REQUIRE_THROWS_AS(p.write("0.weight", std::vector<float>(5)), mox::error);
    REQUIRE_NOTHROW(p.write("0.weight", six));
}

TEST_CASE("params are values: copies are independent, zero clears", "[model][params]") {
    using small = mox::stack<mox::linear<2, 3>>;
    mox::params<small> a{mox::init::standard, 1};
    const auto before = a.read("0.weight");
    mox::params<small> b = a;
    b.zero();
    REQUIRE(a.read("0.weight") == before);
    REQUIRE(b.read("0.weight") == std::vector<float>(6, 0.0f));
    REQUIRE(mox::params<small>().read("0.weight") == std::vector<float>(6, 0.0f));
    const mox::params<small> c = std::move(a);
    REQUIRE(c.read("0.weight") == before);
}

TEST_CASE("a user's initialisation decides the deviation of every tensor", "[model][params]") {
    struct only_panels {
        double deviation(const mox::parameter& p, index_t additions) const {
            return p.form == mox::storage::panels ? static_cast<double>(additions) : 0.0;
        }
    };
    using small =
        mox::stack<mox::residual<mox::linear<4, 4, mox::bias::with>, mox::residual<mox::linear<4, 4>>>,
                   mox::rms_norm<4>>;
    const mox::params<small, double> p{only_panels{}, 9};
    for (const double x : p.read("0.0.weight")) REQUIRE(x != 0.0);
    double squares = 0;
    for (const double x : p.read("0.1.0.weight")) squares += x * x;
    REQUIRE(squares > 4.0);  // deviation 2, 16 numbers: expected 64
    REQUIRE(p.read("0.0.bias") == std::vector<double>(4, 0.0));
    REQUIRE(p.read("1.gain") == std::vector<double>(4, 1.0));
}
