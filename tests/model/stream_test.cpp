#include <mox/model/stream.hpp>

#include <vector>

#include <mox/compose/repeat.hpp>
#include <mox/compose/residual.hpp>
#include <mox/compose/stack.hpp>
#include <mox/layer/attention.hpp>
#include <mox/layer/depth.hpp>
#include <mox/layer/frozen.hpp>
#include <mox/layer/linear.hpp>
#include <mox/layer/lora_pool.hpp>
#include <mox/layer/moe.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;
using mox::row_t;

constexpr mox::attention_spec small{.width = 8, .heads = 2};
constexpr mox::attention_spec grouped{.width = 8, .heads = 4, .kv_heads = 1, .head_dim = 6};
using mix =
    mox::residual<mox::moe<mox::experts<3, mox::swiglu<8, 8>>, mox::route::top_k<2>, mox::null_experts<1>>>;
using net = mox::stack<
    mox::embedding<9, 8>, mox::repeat<3, mox::stack<mox::residual<mox::attention<small>>, mix>>,
    mox::depth<mox::residual<mox::attention<grouped>>, mox::route::learned, mox::keep_permille<500>>,
    mox::linear<8, 9>>;

}  // namespace

TEST_CASE("a stream has one state for each stateful layer, in forward order", "[model][stream]") {
    REQUIRE(mox::state_count<net>() == 4);
    const mox::stream<net, double> s(12);
    REQUIRE(s.length() == 0);
    REQUIRE(s.max_tokens() == 12);
    for (index_t i = 0; i < 4; ++i) {
        INFO("state " << i);
        REQUIRE(s.state(i).width == (i < 3 ? 16 : 12));  // 2 * kv_heads * head_dim
        REQUIRE(s.state(i).rows == 0);
        REQUIRE(s.state(i).capacity == 12);
        // The memories do not overlap.
        if (i > 0) REQUIRE(s.state(i).data >= s.state(i - 1).data + 12 * s.state(i - 1).width);
    }
}

TEST_CASE("decoding extends the stream by the tokens given", "[model][stream]") {
    const mox::params<net, double> w{mox::init::standard, 1};
    mox::stream<net, double> s(12);
    const auto ids = values::ids(7, 9, 1);
    const auto y = mox::decode<net>(w, ids, s);
    REQUIRE(y.rows == 7);
    REQUIRE(y.cols == 9);
    REQUIRE(s.length() == 7);
    REQUIRE(s.state(0).rows == 7);
    REQUIRE(s.state(2).rows == 7);
    REQUIRE(s.state(3).rows <= 7);
    // No tokens: nothing happens.
    REQUIRE(mox::decode<net>(w, std::vector<row_t>{}, s).rows == 0);
    REQUIRE(s.length() == 7);
    REQUIRE(s.state(0).rows == 7);
}

TEST_CASE("routing tells about the last call", "[model][stream]") {
    const mox::params<net, double> w{mox::init::standard, 1};
    mox::stream<net, double> s(12);
    (void)mox::decode<net>(w, values::ids(5, 9, 1), s);
    REQUIRE(s.routing().size() == 4);  // three mixtures, one depth layer
    REQUIRE(s.routing()[0].rows == 5);
    (void)mox::decode<net>(w, values::ids(1, 9, 2), s);
    REQUIRE(s.routing().size() == 4);
    REQUIRE(s.routing()[0].rows == 1);
}

TEST_CASE("a refused token leaves the stream as it was", "[model][stream]") {
    const mox::params<net, double> w{mox::init::standard, 1};
    mox::stream<net, double> s(4), other(4);
    const std::vector<row_t> good{1, 2}, bad{9}, more{3, 4};
    (void)mox::decode<net>(w, good, s);
    REQUIRE_THROWS_AS(mox::decode<net>(w, bad, s), mox::error);
    REQUIRE(s.length() == 2);
    REQUIRE(s.state(0).rows == 2);
    (void)mox::decode<net>(w, good, other);
    REQUIRE(values::copy(mox::decode<net>(w, more, s)) == values::copy(mox::decode<net>(w, more, other)));
}

TEST_CASE("a network that reads rows decodes rows", "[model][stream]") {
    using rows_net = mox::stack<mox::residual<mox::attention<small>>>;
    const mox::params<rows_net, double> w{mox::init::standard, 1};
    mox::stream<rows_net, double> s(6);
    mox::tape<rows_net, double> tape;
    const auto x = values::normal<double>(6, 8, 1);
    const auto want = values::copy(mox::infer<rows_net>(w, x, tape));
    for (index_t t = 0; t < 6; ++t) {
        const auto row = values::middle(x, t, 1);
        REQUIRE(values::largest_difference(values::copy(mox::decode<rows_net>(w, row, s)),
                                           values::middle(want, t, 1)) < 1e-13);
    }
    REQUIRE_THROWS_AS(mox::decode<rows_net>(w, values::normal<double>(1, 7, 1), s), mox::error);
}

TEST_CASE("a stream can be moved", "[model][stream]") {
    const mox::params<net, double> w{mox::init::standard, 1};
    mox::stream<net, double> a(8), b(8);
    const std::vector<row_t> first{1, 2, 3}, next{4};
    (void)mox::decode<net>(w, first, a);
    (void)mox::decode<net>(w, first, b);
    mox::stream<net, double> moved = std::move(a);
    REQUIRE(moved.length() == 3);
    REQUIRE(values::copy(mox::decode<net>(w, next, moved)) == values::copy(mox::decode<net>(w, next, b)));
}

TEST_CASE("a token refused behind a layer that has kept it leaves the stream as it was", "[model][stream]") {
    using pool = mox::lora_pool<mox::linear<8, 5>, mox::pool_spec{.adapters = 2, .ranks = 4}>;
    using rows_net =
        mox::stack<mox::residual<mox::attention<small>>, mox::residual<mox::attention<grouped>>, pool>;
    const mox::params<rows_net, double> w{mox::init::standard, 1};
    const auto x = values::normal<double>(4, 8, 1);
    mox::stream<rows_net, double> s(4), other(4);
    // Without a label, and with that of an adapter that is not there.
    REQUIRE_THROWS_AS(mox::decode<rows_net>(w, x, s), mox::error);
    s.with_label(1);
    REQUIRE_THROWS_AS(mox::decode<rows_net>(w, x, s), mox::error);
    REQUIRE(s.length() == 0);
    REQUIRE(s.state(0).rows == 0);
    REQUIRE(s.state(1).rows == 0);
    s.with_label(-1);
    other.with_label(-1);
    REQUIRE(values::copy(mox::decode<rows_net>(w, x, s)) == values::copy(mox::decode<rows_net>(w, x, other)));
    REQUIRE(s.state(1).rows == 4);
}

TEST_CASE("weights without their frozen tensors do not decode", "[model][stream]") {
    using frozen_net = mox::stack<mox::frozen<mox::linear<8, 8>>, mox::residual<mox::attention<small>>>;
    mox::params<frozen_net, double> w;
    for (const auto& info : mox::params<frozen_net, double>::tensors()) {
        if (info.spec.trained)
            w.write(info, std::vector<double>(static_cast<std::size_t>(info.spec.logical_size()), 0.1));
    }
    mox::stream<frozen_net, double> s(4);
    REQUIRE_THROWS_WITH(
        mox::decode<frozen_net>(w, values::normal<double>(1, 8, 1), s),
        Catch::Matchers::Contains("mox::decode: argument 'weights' must hold the frozen tensors"));
}
