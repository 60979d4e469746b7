#include <mox/compose/repeat.hpp>

#include <cmath>
#include <vector>

#include <mox/compose/residual.hpp>
#include <mox/compose/stack.hpp>
#include <mox/layer/attention.hpp>
#include <mox/layer/depth.hpp>
#include <mox/layer/linear.hpp>
#include <mox/layer/moe.hpp>
#include <mox/layer/norm.hpp>
#include <mox/model/stream.hpp>
#include <mox/train/gradcheck.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;

constexpr mox::attention_spec heads{.width = 8, .heads = 2};
using attend = mox::residual<mox::rms_norm<8>, mox::attention<heads>>;
using mix =
    mox::residual<mox::moe<mox::experts<3, mox::swiglu<8, 12>>, mox::route::top_k<2>, mox::balance::load<>>>;
using block = mox::stack<attend, mix>;
using sparse = mox::depth<block, mox::route::learned, mox::keep_permille<500>>;

template <class T>
struct outcome {
    values::matrix<T> y, inferred, dx;
    std::vector<std::vector<T>> grads;
    T aux = 0;
    bool operator==(const outcome&) const = default;
};

template <class Net, class T>
outcome<T> run(const mox::params<Net, T>& w) {
    mox::params<Net, T> g;
    mox::tape<Net, T> tape;
    const mox::batch rows = mox::batch::ragged({9, 0, 4});
    const auto x = values::normal<T>(13, Net::in, 1), dy = values::normal<T>(13, Net::out, 2);
    outcome<T> o;
    o.inferred = values::copy(mox::infer<Net>(w, x, rows, tape));
    o.y = values::copy(mox::forward<Net>(w, x, rows, tape));
    o.aux = tape.aux_loss();
    values::assign(tape.output_grad(), dy);
    o.dx = values::matrix<T>(13, Net::in);
    mox::backward<Net>(w, tape, g, o.dx);
    for (const auto& t : mox::params<Net, T>::tensors()) o.grads.push_back(g.read(t));
    return o;
}

template <class Repeated, class Stacked, class T>
void check_same() {
    const mox::params<Repeated, T> a{mox::init::standard, 4};
    mox::params<Stacked, T> b;
    const auto ta = mox::params<Repeated, T>::tensors();
    const auto tb = mox::params<Stacked, T>::tensors();
    REQUIRE(ta.size() == tb.size());
    for (std::size_t i = 0; i < ta.size(); ++i) REQUIRE(ta[i].path == tb[i].path);
    values::copy_in_order(a, b);
    const auto want = run(b);
    REQUIRE(run(a) == want);
    REQUIRE(want.aux > T(0));
    // The same seed already gave the same numbers.
    const mox::params<Stacked, T> again{mox::init::standard, 4};
    REQUIRE(run(again) == want);
    REQUIRE(Repeated::flops(7) == Stacked::flops(7));
}

}  // namespace

TEMPLATE_TEST_CASE("repeat<3, B> is stack<B, B, B> bit for bit", "[compose][repeat]", float, double) {
    check_same<mox::repeat<3, block>, mox::stack<block, block, block>, TestType>();
    check_same<mox::repeat<1, block>, mox::stack<block>, TestType>();
    check_same<mox::repeat<2, sparse>, mox::stack<sparse, sparse>, TestType>();
    check_same<mox::repeat<4, mix>, mox::stack<mix, mix, mix, mix>, TestType>();
}

TEST_CASE("repeats inside repeats", "[compose][repeat]") {
    using nested = mox::repeat<2, mox::stack<mox::repeat<2, mix>, attend>>;
    using flat = mox::stack<mix, mix, attend, mix, mix, attend>;
    const mox::params<nested, double> a{mox::init::standard, 4};
    mox::params<flat, double> b;
    values::copy_in_order(a, b);
    REQUIRE(run(a) == run(b));
}

TEST_CASE("the copies have parameters of their own", "[compose][repeat]") {
    using net = mox::repeat<3, block>;
    REQUIRE(mox::params<net>::count() == 3 * mox::params<block>::count());
    const mox::params<net, double> w{mox::init::standard, 4};
    REQUIRE(w.read("0.0.1.qkv") != w.read("1.0.1.qkv"));
    REQUIRE(w.read("1.0.1.qkv") != w.read("2.0.1.qkv"));
    const auto before = run(w);
    auto changed = w;
    auto v = changed.read("1.0.1.qkv");
    v[0] += 1;
    changed.write("1.0.1.qkv", v);
    REQUIRE_FALSE(run(changed) == before);
    REQUIRE(changed.read("0.0.1.qkv") == w.read("0.0.1.qkv"));
}

TEST_CASE("repeated blocks pass gradcheck", "[compose][repeat]") {
    const auto r = mox::gradcheck<mox::stack<mox::linear<5, 8>, mox::repeat<3, block>, mox::linear<8, 2>>>(
        {.tokens = 9, .samples = 24});
    INFO(r.message);
    REQUIRE(r.passed);
    const auto s = mox::gradcheck<mox::repeat<2, sparse>>({.tokens = 9, .samples = 24, .may_be_zero = {}});
    INFO(s.message);
    REQUIRE(s.passed);
}

TEST_CASE("a hundred blocks work", "[compose][repeat]") {
    using net =
        mox::stack<mox::embedding<20, 8>, mox::repeat<100, block>, mox::rms_norm<8>, mox::linear<8, 20>>;
    const mox::params<net, double> w{mox::init::standard, 4};
    REQUIRE(mox::params<net>::tensors().size() == 1 + 100 * (3 + 3) + 1 + 1);
    mox::params<net, double> g;
    mox::tape<net, double> tape;
    const auto ids = values::ids(12, 20, 1);
    const auto want = values::copy(mox::infer<net>(w, ids, tape));
    REQUIRE(values::copy(mox::forward<net>(w, ids, tape)) == want);
    REQUIRE(tape.routing().size() == 100);
    values::assign(tape.output_grad(), values::normal<double>(12, 20, 5));
    mox::backward<net>(w, tape, g);
    for (const auto& t : mox::params<net, double>::tensors()) {
        INFO(t.path);
        double largest = 0;
        for (const double v : g.read(t)) {
            REQUIRE(std::isfinite(v));
            largest = std::max(largest, std::abs(v));
        }
        REQUIRE(largest > 0);
    }
    // One derivative through all of them.
    auto moved = w;
    auto v = moved.read("1.0.0.0.gain");
    const double analytic = g.read("1.0.0.0.gain")[3];
    const auto dy = values::normal<double>(12, 20, 5);
    const auto loss = [&](double at) {
        v[3] = at;
        moved.write("1.0.0.0.gain", v);
        const auto y = mox::forward<net>(moved, ids, tape);
        double sum = tape.aux_loss();
        for (index_t i = 0; i < 12; ++i) {
            for (index_t j = 0; j < 20; ++j) sum += y(i, j) * dy(i, j);
        }
        return sum;
    };
    const double at = v[3];
    REQUIRE((loss(at + 1e-6) - loss(at - 1e-6)) / 2e-6 == Approx(analytic).epsilon(1e-4).margin(1e-7));

    mox::stream<net, double> s(12);
    REQUIRE(values::largest_difference(values::copy(mox::decode<net>(w, ids, s)), want) < 1e-10);
}
