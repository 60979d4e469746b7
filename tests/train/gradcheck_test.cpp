// The layers below are written as a user writes them; most are broken on purpose, to see that gradcheck says
// so.

#include <mox/train/gradcheck.hpp>

#include <array>
#include <string>
#include <vector>

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

enum class fault {
    none,
    wrong_gradient,      // twice what it should be
    wrong_sign_once,     // one element of many
    wrong_input,         // forgets the gain in dx
    unwritten,           // leaves the last element as it was
    unwritten_input,     // leaves the last column of dx as it was
    never_accumulates,   // overwrites always
    always_accumulates,  // adds always
    adds_to_input,       // dx += instead of dx =
    zero_gradient,       // writes zeros where there is a gradient
    unused_parameter,    // forward ignores the parameter, its gradient is rightly zero
    no_record,           // forgets ctx.save
};

// y = gain * x, column by column.
template <fault F = fault::none>
struct scaled {
    static constexpr index_t in = 5;
    static constexpr index_t out = 5;
    static constexpr std::array parameters{
        mox::parameter{.name = "gain", .cols = 5, .init = mox::fill::ones}};
    static constexpr double flops(double) { return 5; }

    template <class T>
    struct record {
        mox::matrix_view<const T> x;
    };

    template <class T>
    static void forward(mox::context<T>& ctx, mox::param_ref<scaled, const T> w, mox::matrix_view<const T> x,
                        mox::matrix_view<T> y) {
        const T* gain = w[0];
        for (index_t t = 0; t < x.rows; ++t) {
            for (index_t j = 0; j < in; ++j)
                y(t, j) = F == fault::unused_parameter ? x(t, j) : gain[j] * x(t, j);
        }
        if (F != fault::no_record) ctx.save(record<T>{x});
    }

    template <class T>
    static void backward(mox::context<T>& ctx, mox::param_ref<scaled, const T> w, mox::param_ref<scaled, T> g,
                         mox::matrix_view<const T> dy, mox::matrix_view<T> dx) {
        const auto r = ctx.template restore<record<T>>();
        const T* gain = w[0];
        T* dgain = g[0];
        for (index_t j = 0; j < in; ++j) {
            if (F == fault::unwritten && j == in - 1) continue;
            T sum = 0;
            for (index_t t = 0; t < dy.rows; ++t) sum += dy(t, j) * r.x(t, j);
            if (F == fault::wrong_gradient) sum *= 2;
            if (F == fault::wrong_sign_once && j == 3) sum = -sum;
            if (F == fault::zero_gradient || F == fault::unused_parameter) sum = 0;
            const bool add =
                (ctx.accumulate && F != fault::never_accumulates) || F == fault::always_accumulates;
            dgain[j] = add ? dgain[j] + sum : sum;
        }
        if (!ctx.input_gradient) return;
        for (index_t t = 0; t < dy.rows; ++t) {
            for (index_t j = 0; j < in; ++j) {
                if (F == fault::unwritten_input && j == in - 1) continue;
                const bool without = F == fault::wrong_input || F == fault::unused_parameter;
                const T d = without ? dy(t, j) : gain[j] * dy(t, j);
                dx(t, j) = F == fault::adds_to_input ? dx(t, j) + d : d;
            }
        }
    }
};

template <fault F>
using net = mox::stack<scaled<F>>;

}  // namespace

TEST_CASE("a right layer passes, alone and inside others", "[train][gradcheck]") {
    const auto alone = mox::gradcheck<scaled<>>();
    REQUIRE(alone.message == "ok");
    REQUIRE(alone.passed);
    REQUIRE(alone.rows.size() == 2);
    REQUIRE(alone.rows[0].path == "gain");
    REQUIRE(alone.rows[0].checked == 5);
    REQUIRE(alone.rows[1].path == "input");
    REQUIRE(alone.rows[1].checked == 35);
    REQUIRE(alone.worst() < 1e-8);
    REQUIRE(alone.skipped() == 0);

    using mixed =
        mox::stack<scaled<>, mox::residual<scaled<>, mox::rms_norm<5>, mox::swiglu<5, 6>>, scaled<>>;
    const auto r = mox::gradcheck<mixed>();
    INFO(r.message);
    REQUIRE(r.passed);
    REQUIRE(r.rows.size() == 7);
}

TEST_CASE("a wrong gradient fails", "[train][gradcheck]") {
    const auto twice = mox::gradcheck<net<fault::wrong_gradient>>();
    REQUIRE_FALSE(twice.passed);
    REQUIRE(twice.message.rfind("0.gain: analytic and numeric gradients differ by ", 0) == 0);
    REQUIRE(twice.worst() > 0.1);

    const auto once = mox::gradcheck<net<fault::wrong_sign_once>>();
    REQUIRE_FALSE(once.passed);
    REQUIRE(once.message.rfind("0.gain: analytic and numeric gradients differ by ", 0) == 0);

    const auto zero = mox::gradcheck<net<fault::zero_gradient>>();
    REQUIRE_FALSE(zero.passed);
    REQUIRE(zero.message.rfind("0.gain: analytic and numeric gradients differ by ", 0) == 0);

    const auto input = mox::gradcheck<net<fault::wrong_input>>();
    REQUIRE_FALSE(input.passed);
    REQUIRE(input.message.rfind("input: analytic and numeric gradients differ by ", 0) == 0);
}

TEST_CASE("an unwritten gradient fails", "[train][gradcheck]") {
    const auto gain = mox::gradcheck<net<fault::unwritten>>();
    REQUIRE_FALSE(gain.passed);
    REQUIRE(gain.message == "0.gain: backward leaves elements of this gradient unwritten");
    REQUIRE(gain.rows[0].unwritten);
    REQUIRE_FALSE(gain.rows[1].unwritten);

    const auto input = mox::gradcheck<net<fault::unwritten_input>>();
    REQUIRE_FALSE(input.passed);
    REQUIRE(input.message == "input: backward leaves elements of this gradient unwritten");

    // Adding to what was there is the same mistake in the eyes of the next step.
    const auto adds = mox::gradcheck<net<fault::always_accumulates>>();
    REQUIRE_FALSE(adds.passed);
    REQUIRE(adds.message == "0.gain: backward leaves elements of this gradient unwritten");
    const auto adds_dx = mox::gradcheck<net<fault::adds_to_input>>();
    REQUIRE_FALSE(adds_dx.passed);
    REQUIRE(adds_dx.message == "input: backward leaves elements of this gradient unwritten");
}

TEST_CASE("a gradient that does not accumulate fails", "[train][gradcheck]") {
    const auto r = mox::gradcheck<net<fault::never_accumulates>>();
    REQUIRE_FALSE(r.passed);
    REQUIRE(r.message == "0.gain: accumulating the same gradient twice does not double it");
}

TEST_CASE("a gradient that is zero everywhere fails unless it may be", "[train][gradcheck]") {
    const auto r = mox::gradcheck<net<fault::unused_parameter>>();
    REQUIRE_FALSE(r.passed);
    REQUIRE(r.message ==
            "0.gain: this gradient is zero everywhere; list it in may_be_zero when that is right");
    REQUIRE(r.rows[0].always_zero);
    const auto allowed = mox::gradcheck<net<fault::unused_parameter>>({.may_be_zero = {"0.gain"}});
    REQUIRE(allowed.message == "ok");
    REQUIRE(allowed.passed);
    REQUIRE_FALSE(mox::gradcheck<net<fault::unused_parameter>>({.may_be_zero = {"gain"}}).passed);
}

TEST_CASE("a layer that forgets its record is refused in backward", "[train][gradcheck]") {
    REQUIRE_THROWS_WITH(
        mox::gradcheck<net<fault::no_record>>(),
        "mox::backward: the tape does not hold the forward pass of this network; call mox::forward "
        "with the same tape first");
}

TEST_CASE("the fault is found behind other layers too", "[train][gradcheck]") {
    using deep = mox::stack<mox::linear<5, 5>, mox::residual<mox::rms_norm<5>, scaled<fault::wrong_input>>>;
    const auto r = mox::gradcheck<deep>();
    REQUIRE_FALSE(r.passed);
    // Everything before the broken layer is wrong, its own gain is right.
    for (const auto& row : r.rows) {
        INFO(row.path);
        const bool before = row.path != "1.1.gain";
        REQUIRE((row.worst > 1e-6) == before);
    }
}

TEST_CASE("options: tokens, samples, tolerance, batches", "[train][gradcheck]") {
    using one = mox::stack<mox::linear<20, 20>>;
    const auto few = mox::gradcheck<one>({.tokens = 3, .samples = 10});
    REQUIRE(few.passed);
    REQUIRE(few.rows[0].checked >= 10);
    REQUIRE(few.rows[0].checked <= 11);
    REQUIRE(few.rows[1].checked >= 10);
    const auto all = mox::gradcheck<one>({.tokens = 3, .samples = 100000});
    REQUIRE(all.rows[0].checked == 400);
    REQUIRE(all.rows[1].checked == 60);
    REQUIRE_FALSE(mox::gradcheck<mox::stack<mox::swiglu<5, 6>>>({.tolerance = 1e-16}).passed);

    constexpr mox::attention_spec heads{.width = 8, .heads = 2};
    using ragged = mox::stack<mox::residual<mox::rms_norm<8>, mox::attention<heads>>>;
    const auto r = mox::gradcheck<ragged>({}, mox::batch::ragged({4, 0, 1, 6}));
    INFO(r.message);
    REQUIRE(r.passed);
    // No rows: every gradient is written, and zero.
    const auto none = mox::gradcheck<ragged>({}, mox::batch::equal(1, 0));
    REQUIRE(none.passed);
    for (const auto& row : none.rows) REQUIRE(row.always_zero);
}

TEST_CASE("networks of ids have no input gradient", "[train][gradcheck]") {
    using lookup = mox::stack<mox::embedding<6, 5>, scaled<>, mox::linear<5, 6, mox::bias::with>>;
    const auto r = mox::gradcheck<lookup>({.tokens = 9});
    INFO(r.message);
    REQUIRE(r.passed);
    REQUIRE(r.rows.size() == 4);
    for (const auto& row : r.rows) REQUIRE(row.path != "input");
}

TEST_CASE("quotients that cross a decision of the router are left out", "[train][gradcheck]") {
    using routed = mox::stack<mox::moe<mox::experts<4, mox::swiglu<6, 8>>, mox::route::top_k<2>>>;
    const auto fine = mox::gradcheck<routed>({.tokens = 20});
    INFO(fine.message);
    REQUIRE(fine.passed);
    REQUIRE(fine.skipped() == 0);
    // Wide steps cross decisions; their quotients would be nonsense.
    const auto wide = mox::gradcheck<routed>({.tokens = 20, .step = 0.05, .tolerance = 0.5});
    REQUIRE(wide.skipped() > 0);
    index_t checked = 0;
    for (const auto& row : wide.rows) checked += row.checked;
    REQUIRE(checked > 0);
}
