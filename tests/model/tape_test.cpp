#include <mox/model/tape.hpp>

#include <utility>
#include <vector>

#include <mox/compose/repeat.hpp>
#include <mox/compose/residual.hpp>
#include <mox/compose/stack.hpp>
#include <mox/layer/depth.hpp>
#include <mox/layer/moe.hpp>
#include <mox/layer/norm.hpp>
#include <mox/model/run.hpp>
#include <mox/route/jitter.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;
using mox::row_t;

constexpr index_t D = 12;
using mixture = mox::moe<mox::experts<4, mox::swiglu<D, 16>>, mox::route::top_k<3>, mox::null_experts<2>,
                         mox::balance::load<>>;
using dropping =
    mox::moe<mox::experts<3, mox::swiglu<D, 16>>, mox::route::top_k<2>, mox::capacity::factor<500>>;
using sparse = mox::depth<mox::residual<dropping>, mox::route::learned, mox::keep_permille<500>>;
using net = mox::stack<mox::repeat<2, mox::residual<mixture>>, sparse>;

}  // namespace

TEST_CASE("routing records tell who computed what, in forward order", "[model][tape]") {
    const mox::params<net, double> w{mox::init::standard, 1};
    mox::tape<net, double> tape;
    REQUIRE(tape.routing().empty());
    const auto x = values::normal<double>(20, D, 1);
    (void)mox::forward<net>(w, x, tape);
    const auto r = tape.routing();
    using kind = mox::routing_record::kind_t;
    REQUIRE(r.size() == 4);
    REQUIRE(r[0].kind == kind::experts);
    REQUIRE(r[1].kind == kind::experts);
    REQUIRE(r[2].kind == kind::depth);
    REQUIRE(r[3].kind == kind::experts);
    REQUIRE(r[0].layer == mox::type_id<mixture>());
    REQUIRE(r[2].layer == mox::type_id<sparse>());
    REQUIRE(r[3].layer == mox::type_id<dropping>());
    REQUIRE(r[0].rows == 20);
    REQUIRE(r[0].token == nullptr);
    REQUIRE(r[2].selected_count == 10);
    // The mixture inside the block saw the selected tokens only, under their numbers in the batch.
    REQUIRE(r[3].rows == 10);
    for (index_t i = 0; i < 10; ++i) REQUIRE(r[3].token[i] == r[2].selected[i]);
}

TEST_CASE("statistics are the sums of the records", "[model][tape]") {
    const mox::params<net, double> w{mox::init::standard, 1};
    mox::tape<net, double> tape;
    const auto x = values::normal<double>(50, D, 1);
    (void)mox::forward<net>(w, x, tape);
    {
        const auto s = tape.stats<mixture>();
        REQUIRE(s.tokens == 100);
        REQUIRE(s.slots == 300);
        REQUIRE(s.dropped == 0);
        REQUIRE(s.processed == 0);
        std::vector<index_t> counts(6, 0);
        for (const auto& r : tape.routing()) {
            if (r.layer != mox::type_id<mixture>()) continue;
            for (index_t i = 0; i < r.rows * r.slots; ++i) ++counts[static_cast<std::size_t>(r.chosen[i])];
        }
        REQUIRE(s.tokens_per_expert == counts);
        REQUIRE(s.nulls == counts[4] + counts[5]);
        REQUIRE(s.nulls > 0);
    }
    {
        const auto s = tape.stats<dropping>();
        REQUIRE(s.tokens == 25);
        REQUIRE(s.slots == 50);
        index_t dropped = 0;
        const auto& r = tape.routing()[3];
        for (index_t i = 0; i < r.rows * r.slots; ++i) dropped += r.chosen[i] == -1 ? 1 : 0;
        // At most ceil(0.5 * 2 * 25 / 3) = 9 slots an expert are admitted.
        REQUIRE(s.dropped == dropped);
        REQUIRE(s.dropped >= 50 - 27);
        index_t counted = 0;  // before dropping
        for (const index_t n : s.tokens_per_expert) counted += n;
        REQUIRE(counted == 50);
    }
    REQUIRE(tape.stats<sparse>().processed == 25);
    REQUIRE(tape.stats<sparse>().tokens == 50);
    REQUIRE(tape.stats<mox::moe<mox::experts<2, mox::swiglu<D, 16>>, mox::route::top_k<1>>>().tokens == 0);
}

TEST_CASE("auxiliary losses belong to training and scale with aux_scale", "[model][tape]") {
    using one = mox::stack<mox::residual<mixture>>;
    const mox::params<one, double> w{mox::init::standard, 1};
    mox::params<one, double> g1, g2, g0;
    mox::tape<one, double> tape;
    REQUIRE(tape.aux_loss() == 0.0);
    const auto x = values::normal<double>(20, D, 1);
    const auto grads = [&](mox::params<one, double>& g) {
        (void)mox::forward<one>(w, x, tape);
        values::assign(tape.output_grad(), values::matrix<double>(20, D));
        mox::backward<one>(w, tape, g);
        return tape.aux_loss();
    };
    const double once = grads(g1);
    REQUIRE(once > 0);
    tape.set_aux_scale(3.0);
    REQUIRE(grads(g2) == Approx(3 * once).epsilon(1e-14));
    const auto r1 = g1.read("0.0.router"), r2 = g2.read("0.0.router");
    double largest = 0;
    for (std::size_t i = 0; i < r1.size(); ++i) {
        REQUIRE(r2[i] == Approx(3 * r1[i]).epsilon(1e-12).margin(1e-18));
        largest = std::max(largest, std::abs(r1[i]));
    }
    REQUIRE(largest > 0);
    tape.set_aux_scale(0.0);
    REQUIRE(grads(g0) == 0.0);
    for (const double v : g0.flat()) REQUIRE(v == 0.0);
    tape.set_aux_scale(1.0);
    (void)mox::infer<one>(w, x, tape);
    REQUIRE(tape.aux_loss() == 0.0);
    REQUIRE(tape.output_grad().data == nullptr);
}

TEST_CASE("seed and scale set between forward and backward are those of the next step", "[model][tape]") {
    using noisy = mox::moe<mox::experts<4, mox::swiglu<D, 16>>, mox::route::jitter<mox::coefficient{0.3}>,
                           mox::route::top_k<2>, mox::balance::load<>>;
    const mox::params<noisy, double> w{mox::init::standard, 1};
    const auto x = values::normal<double>(20, D, 1), dy = values::normal<double>(20, D, 2);
    const auto gradients = [&](bool change) {
        mox::tape<noisy, double> tape;
        mox::params<noisy, double> g;
        (void)mox::forward<noisy>(w, x, tape);
        const auto to = tape.output_grad();
        for (index_t i = 0; i < 20; ++i) std::copy_n(dy.data() + i * D, D, to.row(i));
        if (change) {
            tape.set_aux_scale(100);
            tape.set_seed(77);
        }
        mox::backward<noisy>(w, tape, g);
        return std::vector<double>(g.flat().begin(), g.flat().end());
    };
    REQUIRE(gradients(true) == gradients(false));
}

TEST_CASE("a tape can be moved between forward and backward", "[model][tape]") {
    const mox::params<net, double> w{mox::init::standard, 1};
    mox::params<net, double> g, moved;
    const auto x = values::normal<double>(20, D, 1), dy = values::normal<double>(20, D, 2);
    mox::tape<net, double> a;
    (void)mox::forward<net>(w, x, a);
    values::assign(a.output_grad(), dy);
    mox::backward<net>(w, a, g);
    (void)mox::forward<net>(w, x, a);
    values::assign(a.output_grad(), dy);
    mox::tape<net, double> b = std::move(a);
    mox::backward<net>(w, b, moved);
    REQUIRE(values::same_bits(std::vector<double>(g.flat().begin(), g.flat().end()),
                              std::vector<double>(moved.flat().begin(), moved.flat().end())));
    bool any = false;
    for (const double v : g.flat()) any = any || v != 0;
    REQUIRE(any);
}

TEST_CASE("memory grows to the largest step and stays", "[model][tape]") {
    const mox::params<net, float> w{mox::init::standard, 1};
    mox::tape<net, float> tape;
    const auto large = values::normal<float>(500, D, 1), small = values::normal<float>(5, D, 1);
    (void)mox::forward<net>(w, large, tape);
    (void)mox::forward<net>(w, large, tape);
    const std::size_t bytes = tape.bytes();
    REQUIRE(bytes > 500 * static_cast<std::size_t>(D) * sizeof(float));
    for (int i = 0; i < 3; ++i) {
        (void)mox::forward<net>(w, small, tape);
        (void)mox::infer<net>(w, large, tape);
        (void)mox::forward<net>(w, large, tape);
    }
    REQUIRE(tape.bytes() == bytes);
    // Reuse leaves nothing behind: a small step after a large one is the small step alone.
    mox::tape<net, float> fresh;
    REQUIRE(values::copy(mox::forward<net>(w, small, tape)) ==
            values::copy(mox::forward<net>(w, small, fresh)));
}

TEST_CASE("output is the last result", "[model][tape]") {
    const mox::params<net, float> w{mox::init::standard, 1};
    mox::tape<net, float> tape;
    const auto x = values::normal<float>(5, D, 1);
    const auto y = mox::forward<net>(w, x, tape);
    REQUIRE(tape.output().data == y.data);
    REQUIRE(tape.output_grad().rows == 5);
    REQUIRE(tape.output_grad().cols == D);
}
