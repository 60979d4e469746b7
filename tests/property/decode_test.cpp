// Decoding token by token is inference over the whole sequence.

#include <algorithm>
#include <string>
#include <vector>

#include <mox/compose/early_exit.hpp>
#include <mox/compose/repeat.hpp>
#include <mox/compose/residual.hpp>
#include <mox/compose/stack.hpp>
#include <mox/layer/attention.hpp>
#include <mox/layer/depth.hpp>
#include <mox/layer/linear.hpp>
#include <mox/layer/moe.hpp>
#include <mox/layer/norm.hpp>
#include <mox/model/stream.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;
using mox::row_t;

constexpr index_t D = 24, V = 40, N = 75;

template <mox::attention_spec Spec>
using attend = mox::residual<mox::rms_norm<D>, mox::attention<Spec>>;

constexpr mox::attention_spec full_heads{.width = D, .heads = 4};
constexpr mox::attention_spec grouped{
    .width = D, .heads = 4, .kv_heads = 2, .head_dim = 8, .interleaved = true};
constexpr mox::attention_spec still{.width = D, .heads = 3, .rotary = false};

using mix =
    mox::residual<mox::rms_norm<D>,
                  mox::moe<mox::experts<5, mox::swiglu<D, 20>>, mox::route::top_k<3>, mox::null_experts<3>,
                           mox::balance::load<>, mox::shared<mox::swiglu<D, 12>>>>;
template <mox::attention_spec Spec>
using block = mox::stack<attend<Spec>, mix>;
template <mox::attention_spec Spec>
using thinned = mox::depth<block<Spec>, mox::route::learned, mox::keep_permille<500>>;

template <class... Ls>
using language = mox::stack<mox::embedding<V, D>, Ls..., mox::rms_norm<D>, mox::linear<D, V>>;

using dense_net = language<mox::repeat<2, block<full_heads>>>;
using grouped_net = language<block<grouped>, block<still>>;
using depth_net = language<block<full_heads>, mox::repeat<2, thinned<grouped>>>;
using nested_net = language<
    mox::depth<mox::stack<attend<full_heads>, thinned<still>>, mox::route::learned, mox::keep_permille<700>>,
    block<full_heads>>;

// The second remedy, also for a score that needs the whole sequence; chance; class tokens; early exit.
using predicted_net = language<
    block<full_heads>,
    mox::depth<block<grouped>, mox::route::learned, mox::keep_permille<500>, mox::sampling::predictor<12>>,
    mox::depth<block<still>, mox::route::attention_received, mox::keep_permille<300>,
               mox::sampling::predictor<12>, mox::always_first<2>>>;
template <class Block>
using by_chance = mox::depth<Block, mox::route::random, mox::keep_permille<400>, mox::sampling::threshold>;
using chance_net = language<block<full_heads>, by_chance<mox::stack<block<grouped>, by_chance<block<still>>>>,
                            by_chance<block<still>>>;
using exit_net = language<mox::early_exit<mox::exit_by<mox::route::learned, mox::keep_permille<600>>,
                                          block<full_heads>, block<grouped>, block<still>>>;

template <class Net>
mox::params<Net, double> weights_of() {
    mox::params<Net, double> w{mox::init::standard, 21};
    // Larger embeddings and routers, so that tokens and choices differ clearly.
    for (const auto& t : mox::params<Net, double>::tensors()) {
        if (t.spec.init != mox::fill::embedding && t.spec.init != mox::fill::small) continue;
        auto v = w.read(t);
        for (double& x : v) x *= 50;
        w.write(t, v);
    }
    return w;
}

template <class Net>
values::matrix<double> decoded(const mox::params<Net, double>& w, const std::vector<row_t>& ids,
                               const std::vector<index_t>& chunks, mox::stream<Net, double>& s) {
    values::matrix<double> all(static_cast<index_t>(ids.size()), V);
    index_t at = 0;
    for (std::size_t c = 0; at < static_cast<index_t>(ids.size()); ++c) {
        const index_t want = c < chunks.size() ? chunks[c] : 1;
        const index_t n = std::min(want, static_cast<index_t>(ids.size()) - at);
        const auto y = mox::decode<Net>(
            w, mox::token_ids(ids).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(n)), s);
        REQUIRE(y.rows == n);
        REQUIRE(y.cols == V);
        for (index_t i = 0; i < n; ++i) {
            for (index_t j = 0; j < V; ++j) all(at + i, j) = y(i, j);
        }
        at += n;
        REQUIRE(s.length() == at);
    }
    return all;
}

template <class Net>
void check_decoding() {
    const auto w = weights_of<Net>();
    const auto ids = values::ids(N, V, 3);
    mox::tape<Net, double> tape;
    const auto want = values::copy(mox::infer<Net>(w, ids, tape));
    mox::stream<Net, double> s(N);
    const std::vector<std::vector<index_t>> cuts{{},       {N},      {1, 30}, {20}, {7, 1, 33, 2, 2, 17},
                                                 {64, 11}, {0, 5, 0}};
    for (const auto& chunks : cuts) {
        s.reset();
        REQUIRE(s.length() == 0);
        REQUIRE(values::largest_difference(decoded(w, ids, chunks, s), want) < 1e-10);
    }
    // The comparison would notice a token out of place.
    auto other = ids;
    std::swap(other[3], other[10]);
    REQUIRE(other != ids);
    s.reset();
    REQUIRE(values::largest_difference(decoded(w, other, {}, s), want) > 1e-3);
}

template <class Net>
void check_causality() {
    const auto w = weights_of<Net>();
    const auto ids = values::ids(N, V, 3);
    mox::tape<Net, double> tape;
    const auto want = values::copy(mox::infer<Net>(w, ids, tape));
    for (const index_t kept : {0, 1, 15, 16, 40, 63, 64, 74}) {
        auto changed = ids;
        for (index_t t = kept; t < N; ++t) {
            row_t& id = changed[static_cast<std::size_t>(t)];
            id = static_cast<row_t>((id + 1 + t % 7) % V);
        }
        const auto got = values::copy(mox::infer<Net>(w, changed, tape));
        INFO("tokens kept: " << kept);
        REQUIRE(values::middle(got, 0, kept) == values::middle(want, 0, kept));
        REQUIRE_FALSE(values::middle(got, kept, 1) == values::middle(want, kept, 1));
        // A shorter sequence has the same beginning too.
        const auto prefix =
            values::copy(mox::infer<Net>(w, mox::token_ids(ids).first(static_cast<std::size_t>(kept)), tape));
        REQUIRE(prefix.rows() == kept);
        REQUIRE(prefix == values::middle(want, 0, kept));
    }
}

}  // namespace

TEST_CASE("every decode step equals its row of infer", "[property][decode]") {
    check_decoding<dense_net>();
    check_decoding<grouped_net>();
    check_decoding<depth_net>();
    check_decoding<nested_net>();
    check_decoding<predicted_net>();
    check_decoding<chance_net>();
    check_decoding<exit_net>();
}

TEST_CASE("a later token never changes earlier logits", "[property][decode]") {
    check_causality<dense_net>();
    check_causality<grouped_net>();
    check_causality<depth_net>();
    check_causality<nested_net>();
    check_causality<predicted_net>();
    check_causality<chance_net>();
    check_causality<exit_net>();
}

TEST_CASE("the cache of a depth block holds the processed tokens only", "[property][decode]") {
    const auto w = weights_of<depth_net>();
    const auto ids = values::ids(N, V, 3);
    mox::tape<depth_net, double> tape;
    (void)mox::infer<depth_net>(w, ids, tape);
    std::vector<std::vector<row_t>> selected;
    for (const auto& r : tape.routing()) {
        if (r.kind == mox::routing_record::kind_t::depth) {
            selected.push_back({r.selected, r.selected + r.selected_count});
        }
    }
    REQUIRE(selected.size() == 2);
    REQUIRE(mox::state_count<depth_net>() == 3);
    mox::stream<depth_net, double> s(N);
    for (index_t t = 0; t < N; ++t) {
        (void)mox::decode<depth_net>(w, mox::token_ids(ids).subspan(static_cast<std::size_t>(t), 1), s);
        REQUIRE(s.state(0).rows == t + 1);
        for (std::size_t b = 0; b < 2; ++b) {
            const auto n =
                std::count_if(selected[b].begin(), selected[b].end(), [&](row_t r) { return r <= t; });
            REQUIRE(s.state(static_cast<index_t>(b) + 1).rows == n);
        }
    }
    for (const auto& chosen : selected) {
        REQUIRE(chosen.size() > 5);
        REQUIRE(chosen.size() < static_cast<std::size_t>(N) - 5);
    }
    REQUIRE(s.state(0).width == 2 * D);
    REQUIRE(s.state(1).width == 2 * 2 * 8);
    REQUIRE_THROWS(s.state(99));
}

TEST_CASE("a block that takes no token of a step keeps the states of the others in line",
          "[property][decode]") {
    // Router vectors of a depth block such that no token ever passes: the attention after it must still find
    // its own cache.
    using net = language<thinned<still>, block<full_heads>>;
    auto w = weights_of<net>();
    // The first column of the table is 1 for everybody, the router looks at it alone.
    auto table = w.read("0.table");
    for (std::size_t v = 0; v < V; ++v) table[v * D] = 1;
    w.write("0.table", table);
    std::vector<double> router(D, 0.0);
    router[0] = -1;
    w.write("1.router", router);
    const auto ids = values::ids(20, V, 3);
    mox::tape<net, double> tape;
    const auto want = values::copy(mox::infer<net>(w, ids, tape));
    REQUIRE(tape.routing()[0].selected_count == 0);
    mox::stream<net, double> s(20);
    REQUIRE(values::largest_difference(decoded(w, ids, {3}, s), want) < 1e-10);
    REQUIRE(s.state(0).rows == 0);
    REQUIRE(s.state(1).rows == 20);
}

TEST_CASE("a full stream refuses, and a reset one starts over", "[property][decode]") {
    const auto w = weights_of<depth_net>();
    const auto ids = values::ids(10, V, 3);
    mox::stream<depth_net, double> s(10);
    REQUIRE(s.max_tokens() == 10);
    const auto first = decoded(w, ids, {4}, s);
    REQUIRE(s.length() == 10);
    const std::vector<row_t> one{1};
    std::string message;
    try {
        (void)mox::decode<depth_net>(w, one, s);
    } catch (const mox::error& e) {
        message = e.what();
    }
    REQUIRE(message ==
            "mox::decode: the stream is full; construct it with a larger 'max_tokens' or reset it");
    // The refusal changed nothing.
    REQUIRE(s.length() == 10);
    REQUIRE(s.state(0).rows == 10);
    s.reset();
    REQUIRE(s.length() == 0);
    for (index_t i = 0; i < 3; ++i) REQUIRE(s.state(i).rows == 0);
    REQUIRE(decoded(w, ids, {4}, s) == first);
    // A prompt that does not fit is refused as a whole.
    s.reset();
    REQUIRE_THROWS_AS(mox::decode<depth_net>(w, values::ids(11, V, 3), s), mox::error);
    REQUIRE(s.length() == 0);
    REQUIRE_THROWS_AS((mox::stream<depth_net, double>(0)), mox::error);
}

TEST_CASE("a network that needs the whole sequence refuses to decode", "[property][decode]") {
    using net =
        language<attend<full_heads>,
                 mox::depth<block<full_heads>, mox::route::attention_received, mox::keep_permille<500>>>;
    const mox::params<net, double> w{mox::init::standard, 1};
    mox::stream<net, double> s(10);
    const std::vector<row_t> one{1};
    REQUIRE_THROWS_WITH(
        (mox::decode<net>(w, one, s)),
        "mox::decode: a depth layer whose selection or weight needs the whole sequence cannot decode "
        "token by token; give it a causal rule such as sampling::predictor");
}

TEST_CASE("streams are independent", "[property][decode]") {
    const auto w = weights_of<dense_net>();
    const auto a = values::ids(12, V, 1), b = values::ids(12, V, 2);
    mox::stream<dense_net, double> alone_a(12), alone_b(12), sa(12), sb(12);
    const auto want_a = decoded(w, a, {}, alone_a), want_b = decoded(w, b, {}, alone_b);
    REQUIRE_FALSE(want_a == want_b);
    for (index_t t = 0; t < 12; ++t) {
        const auto at = static_cast<std::size_t>(t);
        REQUIRE(values::copy(mox::decode<dense_net>(w, mox::token_ids(a).subspan(at, 1), sa)) ==
                values::middle(want_a, t, 1));
        REQUIRE(values::copy(mox::decode<dense_net>(w, mox::token_ids(b).subspan(at, 1), sb)) ==
                values::middle(want_b, t, 1));
    }
}
