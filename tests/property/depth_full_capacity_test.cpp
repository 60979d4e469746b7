// Properties of mixture of depths: capacity, selection, and the tokens that stay out.

#include <algorithm>
#include <numeric>
#include <vector>

#include <mox/compose/residual.hpp>
#include <mox/compose/stack.hpp>
#include <mox/layer/attention.hpp>
#include <mox/layer/depth.hpp>
#include <mox/layer/moe.hpp>
#include <mox/layer/norm.hpp>
#include <mox/model/run.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;

constexpr index_t D = 16;
constexpr mox::attention_spec heads{.width = D, .heads = 2};
using attend = mox::residual<mox::rms_norm<D>, mox::attention<heads>>;
using mix =
    mox::residual<mox::rms_norm<D>,
                  mox::moe<mox::experts<4, mox::swiglu<D, 20>>, mox::route::top_k<2>, mox::balance::load<>>>;
using block = mox::stack<attend, mix>;

template <index_t Permille>
using sparse = mox::stack<mox::depth<block, mox::route::learned, mox::keep_permille<Permille>,
                                     mox::weighting::none, mox::sampling::whole_sequence>>;

// The rows that went through the block in the last step.
template <class Tape>
std::vector<mox::row_t> selected(const Tape& t) {
    for (const auto& r : t.routing()) {
        if (r.kind == mox::routing_record::kind_t::depth) return {r.selected, r.selected + r.selected_count};
    }
    return {};
}

}  // namespace

TEMPLATE_TEST_CASE("full capacity without weighting is the plain block bit for bit", "[property][depth]",
                   float, double) {
    using T = TestType;
    using full = sparse<1000>;
    using plain = mox::stack<block>;
    const mox::params<full, T> wf{mox::init::standard, 3};
    mox::params<plain, T> wp;
    const auto tf = mox::params<full, T>::tensors();
    const auto tp = mox::params<plain, T>::tensors();
    REQUIRE(tf.size() == tp.size() + 1);
    REQUIRE(tf[0].path == "0.router");
    for (std::size_t i = 0; i < tp.size(); ++i) wp.write(tp[i], wf.read(tf[i + 1]));

    const mox::batch rows = mox::batch::ragged({11, 1, 0, 23});
    const auto x = values::normal<T>(rows.rows(), D, 4);
    const auto dy = values::normal<T>(rows.rows(), D, 5);
    mox::tape<full, T> a;
    mox::tape<plain, T> b;
    mox::params<full, T> gf;
    mox::params<plain, T> gp;
    values::matrix<T> dxf(rows.rows(), D), dxp(rows.rows(), D);

    const auto yf = values::copy(mox::forward<full>(wf, x, rows, a));
    REQUIRE(selected(a).size() == 35);
    values::assign(a.output_grad(), dy);
    mox::backward<full>(wf, a, gf, mox::matrix_view<T>(dxf.data(), rows.rows(), D));
    const auto yp = values::copy(mox::forward<plain>(wp, x, rows, b));
    values::assign(b.output_grad(), dy);
    mox::backward<plain>(wp, b, gp, mox::matrix_view<T>(dxp.data(), rows.rows(), D));

    REQUIRE(yf == yp);
    REQUIRE_FALSE(yf == x);
    REQUIRE(dxf == dxp);
    REQUIRE(a.aux_loss() == b.aux_loss());
    for (std::size_t i = 0; i < tp.size(); ++i) {
        INFO(tp[i].path);
        REQUIRE(values::same_bits(gf.read(tf[i + 1]), gp.read(tp[i])));
    }
    // The score only selects: its vector gets no gradient.
    for (const T g : gf.read("0.router")) REQUIRE(g == T(0));
    REQUIRE(values::copy(mox::infer<full>(wf, x, rows, a)) ==
            values::copy(mox::infer<plain>(wp, x, rows, b)));
}

TEST_CASE("a sequence shorter than 1/c keeps one token, an empty one none", "[property][depth]") {
    using net = sparse<125>;
    const mox::params<net, double> w{mox::init::standard, 3};
    mox::tape<net, double> tape;
    const std::vector<index_t> lengths{3, 0, 7, 8, 15, 16, 1, 24};
    const std::vector<index_t> kept{1, 0, 1, 1, 1, 2, 1, 3};  // max(1, floor(n / 8))
    const mox::batch rows = mox::batch::ragged(lengths);
    const auto x = values::normal<double>(rows.rows(), D, 8);
    (void)mox::forward<net>(w, x, rows, tape);
    const auto s = selected(tape);
    index_t begin = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
        const auto count = std::count_if(s.begin(), s.end(),
                                         [&](mox::row_t r) { return r >= begin && r < begin + lengths[i]; });
        REQUIRE(count == kept[i]);
        begin += lengths[i];
    }
    REQUIRE(tape.stats<net::first>().processed == 10);
}

TEST_CASE("the largest scores of each sequence pass, the other tokens stay as they are",
          "[property][depth]") {
    using net = sparse<400>;
    const mox::params<net, float> w{mox::init::standard, 3};
    mox::tape<net, float> tape;
    const std::vector<index_t> lengths{13, 20, 2};
    const mox::batch rows = mox::batch::ragged(lengths);
    const auto x = values::normal<float>(rows.rows(), D, 8);
    const auto y = values::copy(mox::forward<net>(w, x, rows, tape));
    const auto router = w.read("0.router");

    std::vector<mox::row_t> want;
    index_t begin = 0;
    for (const index_t n : lengths) {
        std::vector<std::pair<double, index_t>> score;
        for (index_t t = begin; t < begin + n; ++t) {
            double r = 0;
            for (index_t i = 0; i < D; ++i) {
                r += static_cast<double>(x(t, i)) * static_cast<double>(router[static_cast<std::size_t>(i)]);
            }
            score.push_back({-r, t});
        }
        std::sort(score.begin(), score.end());
        const index_t k = std::max<index_t>(1, 2 * n / 5);
        for (index_t i = 0; i < k; ++i)
            want.push_back(static_cast<mox::row_t>(score[static_cast<std::size_t>(i)].second));
        begin += n;
    }
    std::sort(want.begin(), want.end());
    REQUIRE(selected(tape) == want);
    for (index_t t = 0; t < rows.rows(); ++t) {
        const bool passed = std::find(want.begin(), want.end(), static_cast<mox::row_t>(t)) != want.end();
        INFO("token " << t);
        REQUIRE((values::middle(y, t, 1) == values::middle(x, t, 1)) == !passed);
    }
}

TEST_CASE("the weight of the contribution is a(r)", "[property][depth]") {
    // y = x + a(r) (block(x_S) - x) with the unweighted layer giving block(x_S).
    using bare = sparse<500>;
    using weighted_s = mox::stack<mox::depth<block, mox::route::learned, mox::keep_permille<500>>>;
    using weighted_i =
        mox::stack<mox::depth<block, mox::keep_permille<500>, mox::weighting::identity, mox::route::learned>>;
    using weighted_t =
        mox::stack<mox::depth<block, mox::route::learned, mox::weighting::tanh, mox::keep_permille<500>>>;
    mox::params<bare, double> wb{mox::init::standard, 3};
    wb.write("0.router", values::normal<double>(1, D, 55).v);
    mox::params<weighted_s, double> ws;
    mox::params<weighted_i, double> wi;
    mox::params<weighted_t, double> wt;
    values::copy_in_order(wb, ws);
    values::copy_in_order(wb, wi);
    values::copy_in_order(wb, wt);
    const auto x = values::normal<double>(19, D, 8);
    const auto router = wb.read("0.router");
    mox::tape<bare, double> tb;
    const auto yb = values::copy(mox::forward<bare>(wb, x, tb));
    const auto s = selected(tb);
    REQUIRE(s.size() == 9);

    const auto check = [&](const auto& w, auto a) {
        using net = typename std::remove_cvref_t<decltype(w)>::network;
        mox::tape<net, double> tape;
        const auto y = values::copy(mox::forward<net>(w, x, tape));
        REQUIRE(selected(tape) == s);
        double worst = 0;
        for (index_t t = 0; t < 19; ++t) {
            double r = 0;
            for (index_t i = 0; i < D; ++i) r += x(t, i) * router[static_cast<std::size_t>(i)];
            for (index_t i = 0; i < D; ++i) {
                worst = std::max(worst, std::abs(y(t, i) - (x(t, i) + a(r) * (yb(t, i) - x(t, i)))));
            }
        }
        REQUIRE(worst < 1e-12);
    };
    check(ws, [](double r) { return 1 / (1 + std::exp(-r)); });
    check(wi, [](double r) { return r; });
    check(wt, [](double r) { return std::tanh(r); });
}

TEST_CASE("the selected set does not depend on a constant added to all scores", "[property][depth]") {
    using net = sparse<300>;
    mox::params<net, double> w{mox::init::standard, 3};
    mox::tape<net, double> tape;
    const mox::batch rows = mox::batch::ragged({31, 5, 64});
    auto x = values::normal<double>(rows.rows(), D, 8);
    for (index_t t = 0; t < rows.rows(); ++t) x(t, 3) = 1.0;  // the score's bias is router[3]
    const auto y = values::copy(mox::forward<net>(w, x, rows, tape));
    const auto s = selected(tape);
    REQUIRE(s.size() == 9 + 1 + 19);
    for (const double shift : {-50.0, -0.5, 2.0, 1000.0}) {
        auto r = w.read("0.router");
        r[3] += shift;
        w.write("0.router", r);
        REQUIRE(values::copy(mox::forward<net>(w, x, rows, tape)) == y);
        REQUIRE(selected(tape) == s);
    }
    // A change of one score is seen.
    auto r = w.read("0.router");
    for (double& v : r) v = -v;
    w.write("0.router", r);
    (void)mox::forward<net>(w, x, rows, tape);
    REQUIRE(selected(tape) != s);
}
