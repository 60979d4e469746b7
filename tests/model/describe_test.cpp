#include <mox/model/describe.hpp>

#include <algorithm>
#include <string>

#include <mox/compose/repeat.hpp>
#include <mox/compose/residual.hpp>
#include <mox/compose/stack.hpp>
#include <mox/layer/attention.hpp>
#include <mox/layer/depth.hpp>
#include <mox/layer/linear.hpp>
#include <mox/layer/moe.hpp>
#include <mox/layer/norm.hpp>

#include "../support/catch.hpp"

namespace {

using mox::index_t;

constexpr mox::attention_spec heads{.width = 16, .heads = 4, .kv_heads = 2};
using attend = mox::residual<mox::rms_norm<16>, mox::attention<heads>>;
using mixture = mox::moe<mox::experts<6, mox::swiglu<16, 24>>, mox::route::top_k<4>, mox::null_experts<2>,
                         mox::shared<mox::swiglu<16, 10>>>;
using block = mox::stack<attend, mox::residual<mixture>>;
using net = mox::stack<mox::embedding<50, 16>, mox::repeat<3, block>,
                       mox::depth<block, mox::route::learned, mox::keep_permille<250>>,
                       mox::linear<16, 50, mox::bias::with>>;

// By hand. Attention: 4 query heads of 4, 2 key/value heads: 16 x (16 + 8 + 8) and 16 x 16.
constexpr double attention_parameters = 16 * 32 + 16 * 16;
constexpr double expert = 3 * 16 * 24;
constexpr double shared_expert = 3 * 16 * 10;
constexpr double router = 16 * 8;
constexpr double block_parameters = 16 + attention_parameters + router + 6 * expert + shared_expert;
// A token takes 4 of 8 outputs, 6 of which are experts: 3 true experts on average.
constexpr double block_active = 16 + attention_parameters + router + 3 * expert + shared_expert;

constexpr double attention_flops(double context) { return 2 * 16 * 32 + 2 * 16 * 16 + 4 * 16 * context; }
constexpr double block_flops(double context) {
    return 4 * 16 + attention_flops(context) + 2 * router + 3 * 2 * expert + 2 * shared_expert;
}

}  // namespace

TEST_CASE("parameters of a network, by hand", "[model][describe]") {
    const auto s = mox::describe<net>();
    REQUIRE(static_cast<double>(s.parameters) == 50 * 16 + 4 * block_parameters + 16 + 16 * 50 + 50);
    REQUIRE(s.parameters == mox::params<net>::count());
}

TEST_CASE("active parameters of a network, by hand", "[model][describe]") {
    const auto s = mox::describe<net>();
    // One row of the table; a quarter of the depth block; its router looks at every token.
    REQUIRE(s.active_parameters == Approx(16 + 3 * block_active + (16 + block_active / 4) + 16 * 50 + 50));
}

TEST_CASE("operations of a network, by hand", "[model][describe]") {
    for (const double context : {1.0, 32.5, 512.0}) {
        const auto s = mox::describe<net>(context);
        const double want =
            3 * block_flops(context) + (2 * 16 + 0.25 * block_flops(0.25 * context)) + 2 * 16 * 50;
        REQUIRE(s.forward_flops == Approx(want).epsilon(1e-14));
        REQUIRE(s.training_flops == Approx(3 * want).epsilon(1e-14));
    }
}

TEST_CASE("one row per layer, with its place and its copies", "[model][describe]") {
    const auto s = mox::describe<net>(100);
    REQUIRE(s.layers.front().name == "stack");
    REQUIRE(s.layers.front().path.empty());
    REQUIRE(s.layers.front().parameters == s.parameters);
    REQUIRE(s.layers.front().flops == s.forward_flops);
    int attentions = 0, mixtures = 0;
    for (const auto& r : s.layers) {
        if (r.name == "attention") {
            const bool in_depth = r.repetitions == 1;
            REQUIRE((r.repetitions == 3 || r.repetitions == 1));
            REQUIRE(static_cast<double>(r.parameters) == attention_parameters);
            REQUIRE(r.flops == Approx(attention_flops(in_depth ? 25 : 100)));
            ++attentions;
        }
        if (r.name == "moe") {
            REQUIRE(r.in == 16);
            REQUIRE(r.out == 16);
            REQUIRE(static_cast<double>(r.parameters) == router + 6 * expert + shared_expert);
            REQUIRE(r.active_parameters == Approx(router + 3 * expert + shared_expert));
            ++mixtures;
        }
        if (r.name == "embedding") {
            REQUIRE(r.path == "0");
            REQUIRE(r.depth == 1);
            REQUIRE(r.in == 50);
            REQUIRE(r.parameters == 800);
        }
        if (r.name == "depth") REQUIRE(r.path == "2");
    }
    REQUIRE(attentions == 2);  // repeated blocks appear once
    REQUIRE(mixtures == 2);
}

TEST_CASE("plain experts and a full depth block have all or their share active", "[model][describe]") {
    using top = mox::stack<mox::moe<mox::experts<8, mox::swiglu<16, 24>>, mox::route::top_k<2>>>;
    const auto a = mox::describe<top>();
    REQUIRE(a.active_parameters == Approx(16 * 8 + 2 * expert));
    REQUIRE(a.forward_flops == Approx(2 * 16 * 8 + 2 * 2 * expert));
    using dense = mox::stack<mox::swiglu<16, 24>>;
    const auto b = mox::describe<dense>();
    REQUIRE(b.active_parameters == Approx(static_cast<double>(b.parameters)));
    REQUIRE(b.forward_flops == Approx(2 * expert));
}

TEST_CASE("the text has one line per layer and one heading", "[model][describe]") {
    const auto s = mox::describe<net>(100);
    const std::string text = mox::to_string(s);
    REQUIRE(static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')) == s.layers.size() + 1);
    REQUIRE(text.find("FLOPs/token") != std::string::npos);
    REQUIRE(text.find("50 -> 16") != std::string::npos);
    REQUIRE(text.find("embedding") < text.find("repeat"));
    REQUIRE(text.find(std::to_string(s.parameters)) != std::string::npos);
}
