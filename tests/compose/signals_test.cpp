#include <mox/compose/signals.hpp>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

#include <mox/compose/repeat.hpp>
#include <mox/compose/residual.hpp>
#include <mox/compose/stack.hpp>
#include <mox/layer/attention.hpp>
#include <mox/layer/depth.hpp>
#include <mox/layer/ffn.hpp>
#include <mox/layer/linear.hpp>
#include <mox/layer/norm.hpp>
#include <mox/model/run.hpp>
#include <mox/train/gradcheck.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;

// Signals of a user: the first column doubled, and the row's sum.
struct doubled {
    static constexpr index_t width = 1;
};
struct pair {
    static constexpr index_t width = 2;
};

// What the board said when the teller ran: was the signal wanted?
bool doubled_wanted = false, pair_wanted = false;

template <index_t D>
struct teller {
    static constexpr index_t in = D, out = D;
    using publishes = mox::leaves<doubled, pair>;
    static constexpr double flops(double) { return 0; }

    template <class T>
    static void forward(mox::context<T>& ctx, mox::param_ref<teller, const T>, mox::matrix_view<const T> x,
                        mox::matrix_view<T> y) {
        const auto one = ctx.signals->template find<doubled>();
        const auto two = ctx.signals->template find<pair>();
        doubled_wanted = one.data != nullptr;
        pair_wanted = two.data != nullptr;
        for (index_t t = 0; t < x.rows; ++t) {
            std::copy_n(x.row(t), D, y.row(t));
            if (one.data) one(ctx.rows.token_of(t), 0) = 2 * x(t, 0);
            if (two.data) {
                two(ctx.rows.token_of(t), 0) = x(t, 0);
                two(ctx.rows.token_of(t), 1) = x(t, 1);
            }
        }
    }
    template <class T>
    static void backward(mox::context<T>& ctx, mox::param_ref<teller, const T>, mox::param_ref<teller, T>,
                         mox::matrix_view<const T> dy, mox::matrix_view<T> dx) {
        if (!ctx.input_gradient) return;
        for (index_t t = 0; t < dy.rows; ++t) std::copy_n(dy.row(t), D, dx.row(t));
    }
};

// Adds the signal's columns to the first ones of its rows.
template <class Signal, index_t D>
struct listener {
    static constexpr index_t in = D, out = D;
    using reads = mox::leaves<Signal>;
    static constexpr double flops(double) { return Signal::width; }

    template <class T>
    static void forward(mox::context<T>& ctx, mox::param_ref<listener, const T>, mox::matrix_view<const T> x,
                        mox::matrix_view<T> y) {
        const auto s = ctx.signals->template find<Signal>();
        for (index_t t = 0; t < x.rows; ++t) {
            std::copy_n(x.row(t), D, y.row(t));
            for (index_t j = 0; j < Signal::width; ++j) y(t, j) += s(ctx.rows.token_of(t), j);
        }
    }
    template <class T>
    static void backward(mox::context<T>& ctx, mox::param_ref<listener, const T>, mox::param_ref<listener, T>,
                         mox::matrix_view<const T> dy, mox::matrix_view<T> dx) {
        if (!ctx.input_gradient) return;
        for (index_t t = 0; t < dy.rows; ++t) std::copy_n(dy.row(t), D, dx.row(t));
    }
};

// Who says and hears what, for the check of readers; no layers.
struct needed {
    static constexpr bool needs_reader = true;
};
struct free {};
struct producer {
    using publishes = mox::leaves<needed, free>;
};
struct consumer {
    using reads = mox::leaves<needed>;
};
struct around {
    using children = mox::leaves<consumer>;
};

constexpr mox::attention_spec heads{.width = 4, .heads = 2};
using attend = mox::residual<mox::attention<heads>>;
template <class B>
using sparse = mox::depth<B, mox::route::attention_received, mox::keep_permille<500>>;
using feed = mox::residual<mox::swiglu<4, 6>>;

}  // namespace

TEST_CASE("signals_read lists every signal once", "[compose][signals]") {
    using received = mox::signal::attention_received;
    STATIC_REQUIRE(std::is_same_v<mox::signals_read<mox::stack<attend, feed>>, mox::leaves<>>);
    STATIC_REQUIRE(
        std::is_same_v<mox::signals_read<mox::stack<attend, sparse<feed>>>, mox::leaves<received>>);
    STATIC_REQUIRE(
        std::is_same_v<mox::signals_read<mox::repeat<5, mox::stack<attend, sparse<feed>, sparse<attend>>>>,
                       mox::leaves<received>>);
    using both =
        mox::signals_read<mox::stack<teller<4>, listener<pair, 4>, listener<doubled, 4>, listener<pair, 4>>>;
    STATIC_REQUIRE(both::size == 2);
    STATIC_REQUIRE(both::contains<pair>);
    STATIC_REQUIRE(both::contains<doubled>);
    STATIC_REQUIRE(mox::check_network<mox::stack<teller<4>, mox::residual<listener<pair, 4>>>>());
}

TEST_CASE("signals that need a reader know whether one follows", "[compose][signals]") {
    const auto left = []<class... Ls>(std::type_identity<Ls>...) {
        return mox::detail::unread<mox::leaves<>, mox::leaves<Ls...>>::type::size;
    };
    const std::type_identity<producer> says{};
    const std::type_identity<consumer> hears{};
    CHECK(left() == 0);
    CHECK(left(says) == 1);
    CHECK(left(hears, says) == 1);
    CHECK(left(says, hears) == 0);
    CHECK(left(says, std::type_identity<around>{}) == 0);
    CHECK(left(says, says, hears) == 0);
    CHECK(left(says, hears, says) == 1);
}

TEST_CASE("what nobody reads is not on the board", "[compose][signals]") {
    const auto x = values::normal<double>(5, 4, 1);
    {
        using net = mox::stack<teller<4>>;
        mox::tape<net, double> tape;
        (void)mox::infer<net>(mox::params<net, double>(), x, tape);
        REQUIRE_FALSE(doubled_wanted);
        REQUIRE_FALSE(pair_wanted);
    }
    {
        using net = mox::stack<teller<4>, listener<doubled, 4>>;
        mox::tape<net, double> tape;
        (void)mox::infer<net>(mox::params<net, double>(), x, tape);
        REQUIRE(doubled_wanted);
        REQUIRE_FALSE(pair_wanted);
    }
}

TEST_CASE("a reader gets what the last producer said", "[compose][signals]") {
    const auto x = values::normal<double>(5, 4, 1);
    {
        using net = mox::stack<teller<4>, listener<doubled, 4>, listener<pair, 4>>;
        mox::tape<net, double> tape;
        const mox::params<net, double> w;
        for (int again = 0; again < 2; ++again) {
            const auto y = mox::forward<net>(w, x, tape);
            for (index_t t = 0; t < 5; ++t) {
                REQUIRE(y(t, 0) == x(t, 0) + 2 * x(t, 0) + x(t, 0));
                REQUIRE(y(t, 1) == x(t, 1) + x(t, 1));
                REQUIRE(y(t, 2) == x(t, 2));
            }
        }
    }
    {
        // The second teller speaks later and overwrites: 2 x, then 3 x is doubled.
        using net = mox::stack<teller<4>, listener<doubled, 4>, teller<4>, listener<doubled, 4>>;
        mox::tape<net, double> tape;
        const auto y = mox::infer<net>(mox::params<net, double>(), x, tape);
        for (index_t t = 0; t < 5; ++t) REQUIRE(y(t, 0) == Approx(9 * x(t, 0)));
    }
}

TEST_CASE("inside a depth block signals keep the numbers of the whole batch", "[compose][signals]") {
    // The listener runs on the selected rows only and must find their own signals.
    using net =
        mox::stack<teller<4>, mox::depth<listener<doubled, 4>, mox::route::learned, mox::keep_permille<500>,
                                         mox::weighting::none, mox::sampling::whole_sequence>>;
    const mox::params<net, double> w{mox::init::standard, 1};
    mox::tape<net, double> tape;
    const auto x = values::normal<double>(12, 4, 1);
    const auto y = mox::infer<net>(w, x, mox::batch::ragged({5, 7}), tape);
    const auto& r = tape.routing()[0];
    REQUIRE(r.selected_count == 2 + 3);
    std::vector<bool> taken(12, false);
    for (index_t i = 0; i < r.selected_count; ++i) taken[static_cast<std::size_t>(r.selected[i])] = true;
    for (index_t t = 0; t < 12; ++t) {
        REQUIRE(y(t, 0) == x(t, 0) + (taken[static_cast<std::size_t>(t)] ? 2 * x(t, 0) : 0.0));
    }
}

TEST_CASE("a depth block takes the tokens that attention favoured", "[compose][signals]") {
    using net = mox::stack<mox::attention<heads>, sparse<mox::residual<mox::linear<4, 4>>>>;
    mox::params<net, double> w{mox::init::standard, 3};
    mox::tape<net, double> tape;
    constexpr index_t N = 8, H = 2, d = 2;
    const auto x = values::normal<double>(N, 4, 1);
    (void)mox::infer<net>(w, x, tape);
    // The attention map by plain loops: columns of the causal softmax, rotary positions on q and k.
    const auto qkv = w.read("0.qkv");
    const auto project = [&](index_t t, index_t col) {
        double sum = 0;
        for (index_t i = 0; i < 4; ++i) sum += x(t, i) * qkv[static_cast<std::size_t>(i * 12 + col)];
        return sum;
    };
    std::vector<std::pair<double, index_t>> score;
    std::vector<double> received(N, 0.0);
    for (index_t h = 0; h < H; ++h) {
        for (index_t i = 0; i < N; ++i) {
            std::vector<double> p;
            double sum = 0;
            for (index_t j = 0; j <= i; ++j) {
                // Heads of two numbers: one pair, turned by its position (frequency 1).
                const double q0 = project(i, h * d), q1 = project(i, h * d + 1);
                const double k0 = project(j, 4 + h * d), k1 = project(j, 4 + h * d + 1);
                const double c = std::cos(static_cast<double>(i - j)),
                             s = std::sin(static_cast<double>(i - j));
                const double dot = (q0 * c - q1 * s) * k0 + (q0 * s + q1 * c) * k1;
                p.push_back(std::exp(dot / std::sqrt(2.0)));
                sum += p.back();
            }
            for (index_t j = 0; j <= i; ++j) {
                received[static_cast<std::size_t>(j)] += p[static_cast<std::size_t>(j)] / sum;
            }
        }
    }
    for (index_t t = 0; t < N; ++t) score.push_back({-received[static_cast<std::size_t>(t)], t});
    std::sort(score.begin(), score.end());
    std::vector<mox::row_t> want;
    for (std::size_t i = 0; i < 4; ++i) want.push_back(static_cast<mox::row_t>(score[i].second));
    std::sort(want.begin(), want.end());
    const auto& r = tape.routing()[0];
    REQUIRE(std::vector<mox::row_t>(r.selected, r.selected + r.selected_count) == want);
}

TEST_CASE("networks with signals pass gradcheck", "[compose][signals]") {
    using net = mox::stack<attend, sparse<mox::stack<attend, feed>>, attend, sparse<feed>>;
    const auto r = mox::gradcheck<net>({.tokens = 9, .samples = 24});
    INFO(r.message);
    REQUIRE(r.passed);
}
