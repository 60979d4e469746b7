#include <mox/layer/depth.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using mox_test::distance;
using mox_test::normal_numbers;
using mox_test::random_params;
using mox_test::run_backward;
using mox_test::run_forward;
using mox_test::run_infer;

namespace {

template <index_t D>
using block = residual<linear<D, D, bias::with>>;

// Selected rows of every sequence: the `kept` largest scores, ties to the earliest, ascending.
std::vector<row_t> plain_selection(const std::vector<double>& scores, const std::vector<index_t>& lengths,
                                   index_t permille) {
    std::vector<row_t> all;
    index_t begin = 0;
    for (const index_t n : lengths) {
        std::vector<row_t> order(static_cast<std::size_t>(n));
        std::iota(order.begin(), order.end(), static_cast<row_t>(begin));
        std::stable_sort(order.begin(), order.end(), [&](row_t a, row_t b) {
            return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
        });
        order.resize(static_cast<std::size_t>(n == 0 ? 0 : std::max<index_t>(1, permille * n / 1000)));
        std::sort(order.begin(), order.end());
        all.insert(all.end(), order.begin(), order.end());
        begin += n;
    }
    return all;
}

template <class Weighting, index_t D, index_t Permille, class F>
void check_against_plain(const std::vector<index_t>& lengths, const F& factor, std::uint64_t seed) {
    using net = depth<block<D>, route::learned, keep_permille<Permille>, Weighting,
                      sampling::auxiliary_loss<coefficient{0.5}>>;
    const auto w = random_params<net, double>(seed);
    const batch rows = batch::ragged(lengths);
    const auto x = normal_numbers<double>(rows.rows() * D, seed + 1);
    const auto router = w.read("router"), weight = w.read("0.0.weight"), shift = w.read("0.0.bias");
    std::vector<double> scores;
    for (index_t t = 0; t < rows.rows(); ++t) {
        scores.push_back(std::inner_product(router.begin(), router.end(), x.begin() + t * D, 0.0));
    }
    const auto transformed = [&](std::vector<double>& y, row_t t) {
        for (index_t j = 0; j < D; ++j) {
            double f = shift[static_cast<std::size_t>(j)];
            for (index_t i = 0; i < D; ++i)
                f += x[static_cast<std::size_t>(t * D + i)] * weight[static_cast<std::size_t>(i * D + j)];
            y[static_cast<std::size_t>(t * D + j)] += factor(scores[static_cast<std::size_t>(t)]) * f;
        }
    };
    tape<net, double> t;
    {
        const auto selected = plain_selection(scores, lengths, Permille);
        std::vector<double> expected = x;
        for (row_t s : selected) transformed(expected, s);
        CHECK(distance(run_forward(w, x, rows, t), expected) < 1e-12);
        REQUIRE(t.routing().size() == 1);
        const routing_record& r = t.routing()[0];
        CHECK(std::vector<row_t>(r.selected, r.selected + r.selected_count) == selected);
        double loss = 0;
        for (index_t i = 0; i < rows.rows(); ++i) {
            const double p = 1 / (1 + std::exp(-scores[static_cast<std::size_t>(i)]));
            const bool taken = std::binary_search(selected.begin(), selected.end(), static_cast<row_t>(i));
            loss -= 0.5 * std::log(taken ? p : 1 - p) / static_cast<double>(rows.rows());
        }
        CHECK(t.aux_loss() == Approx(loss).epsilon(1e-12));
    }
    {
        // Evaluation: every token for itself, score above 0.
        std::vector<double> expected = x;
        for (index_t i = 0; i < rows.rows(); ++i) {
            if (scores[static_cast<std::size_t>(i)] > 0) transformed(expected, static_cast<row_t>(i));
        }
        CHECK(distance(run_infer(w, x, rows, t), expected) < 1e-12);
        CHECK(t.aux_loss() == 0.0);
    }
}

template <class Net>
void gradients(gradcheck_options o, const batch& rows) {
    const auto r = gradcheck<Net>(o, rows);
    INFO(r.message << ", worst " << r.worst());
    CHECK(r.passed);
}

}  // namespace

TEST_CASE("depth: selection, weighting and loss against plain loops", "[layer][depth]") {
    const auto sigmoid = [](double r) { return 1 / (1 + std::exp(-r)); };
    check_against_plain<weighting::sigmoid, 5, 500>({7}, sigmoid, 1);
    check_against_plain<weighting::sigmoid, 16, 250>({8, 0, 1, 13}, sigmoid, 2);
    check_against_plain<weighting::identity, 3, 125>(
        {20, 3}, [](double r) { return r; }, 3);
    check_against_plain<weighting::tanh, 7, 600>(
        {5, 5}, [](double r) { return std::tanh(r); }, 4);
    check_against_plain<weighting::none, 7, 600>(
        {5, 5}, [](double) { return 1.0; }, 5);
    check_against_plain<weighting::sigmoid, 4, 1000>({6, 2}, sigmoid, 6);
}

TEST_CASE("depth: gradients", "[layer][depth]") {
    gradcheck_options o;
    o.samples = 24;
    const batch ragged = batch::ragged({5, 0, 1, 6});
    gradients<depth<block<5>, route::learned, keep_permille<500>>>(o, ragged);
    gradients<
        depth<block<4>, route::learned, keep_permille<400>, weighting::identity, sampling::whole_sequence>>(
        o, ragged);
    gradients<depth<block<4>, route::learned, keep_permille<1000>, weighting::tanh,
                    sampling::auxiliary_loss<coefficient{1}>>>(o, ragged);
    // Attention among the selected, at their original positions; depth inside depth.
    using inner = residual<rms_norm<4>, attention<attention_spec{.width = 4, .heads = 2}>>;
    gradients<depth<inner, route::learned, keep_permille<700>>>(o, ragged);
    gradients<depth<depth<block<4>, route::learned, keep_permille<500>>, route::learned, keep_permille<700>>>(
        o, ragged);
    gradients<stack<residual<attention<attention_spec{.width = 4, .heads = 2}>>,
                    depth<block<4>, route::attention_received, keep_permille<500>>>>(o, ragged);
}

TEST_CASE("depth: a received-attention score picks the most attended tokens", "[layer][depth]") {
    // Full attention without rotary positions over zero queries: every key receives the same, so that ties
    // decide.
    using net =
        stack<residual<attention<attention_spec{.width = 4, .heads = 1, .rotary = false}, mask::full>>,
              depth<block<4>, route::attention_received, keep_permille<500>>>;
    auto w = random_params<net, double>(3);
    auto qkv = w.read("0.0.qkv");
    for (std::size_t i = 0; i < 4; ++i) {
        for (std::size_t j = 0; j < 4; ++j) qkv[i * 12 + j] = 0;
    }
    w.write("0.0.qkv", qkv);
    tape<net, double> t;
    run_forward(w, normal_numbers<double>(40, 3), batch::ragged({6, 4}), t);
    const routing_record& r = t.routing()[0];
    CHECK(std::vector<row_t>(r.selected, r.selected + r.selected_count) == std::vector<row_t>{0, 1, 2, 6, 7});
    CHECK(t.aux_loss() == 0.0);
    // Causal: the same map's columns are sums of 1 / (i + 1) over the queries behind, falling along the
    // sequence.
    using causal = stack<residual<attention<attention_spec{.width = 4, .heads = 1, .rotary = false}>>,
                         depth<block<4>, route::attention_received, keep_permille<400>>>;
    auto v = random_params<causal, double>(3);
    v.write("0.0.qkv", qkv);
    tape<causal, double> u;
    run_forward(v, normal_numbers<double>(20, 3), batch::equal(1, 5), u);
    const routing_record& c = u.routing()[0];
    CHECK(std::vector<row_t>(c.selected, c.selected + c.selected_count) == std::vector<row_t>{0, 1});
}

TEST_CASE("depth: tokens that do not pass keep their value and hand back their gradient", "[layer][depth]") {
    using net = depth<block<3>, route::learned, keep_permille<250>, sampling::whole_sequence>;
    auto w = random_params<net, double>(3);
    w.write("router", std::vector<double>{1, 0, 0});
    const std::vector<double> x{1, 5, 5, 3, 6, 6, 2, 7, 7, 0, 8, 8};
    tape<net, double> t;
    const auto y = run_forward(w, x, batch::equal(1, 4), t);
    const auto dy = normal_numbers<double>(12, 2);
    params<net, double> g;
    const auto dx = run_backward(w, dy, t, g);
    for (std::size_t i = 0; i < 12; ++i) {
        if (i / 3 == 1) {
            CHECK(y[i] != x[i]);
            CHECK(dx[i] != dy[i]);
        } else {
            CHECK(y[i] == x[i]);
            CHECK(dx[i] == dy[i]);
        }
    }
    CHECK(t.stats<net>().processed == 1);
    CHECK(t.stats<net>().tokens == 4);
}

TEST_CASE("depth: everything passes with capacity one and no weighting, bit for bit the block",
          "[layer][depth]") {
    using net = depth<block<5>, route::learned, keep_permille<1000>, weighting::none>;
    const auto w = random_params<net, double>(3);
    params<block<5>, double> v;
    v.write("0.weight", w.read("0.0.weight"));
    v.write("0.bias", w.read("0.0.bias"));
    const auto x = normal_numbers<double>(45, 3);
    tape<net, double> t;
    tape<block<5>, double> u;
    CHECK(run_forward(w, x, batch::ragged({4, 5}), t) == run_forward(v, x, batch::ragged({4, 5}), u));
}

TEST_CASE("depth: equal scores pick the first tokens, NaN scores the last resort", "[layer][depth]") {
    using net = depth<block<2>, route::learned, keep_permille<500>>;
    auto w = random_params<net, double>(3);
    w.write("router", std::vector<double>{0, 0});
    tape<net, double> t;
    run_forward(w, normal_numbers<double>(12, 3), batch::equal(1, 6), t);
    const auto selected = [&] {
        const routing_record& r = t.routing()[0];
        return std::vector<row_t>(r.selected, r.selected + r.selected_count);
    };
    CHECK(selected() == std::vector<row_t>{0, 1, 2});
    auto x = normal_numbers<double>(12, 3);
    x[0] = std::numeric_limits<double>::quiet_NaN();
    const auto y = run_forward(w, x, batch::equal(1, 6), t);
    CHECK(selected() == std::vector<row_t>{1, 2, 3});
    for (std::size_t i = 2; i < 12; ++i) CHECK(!std::isnan(y[i]));
}

TEST_CASE("depth: nothing selected in evaluation leaves the input", "[layer][depth]") {
    using net = stack<depth<block<2>, route::learned, keep_permille<500>>, linear<2, 2>>;
    auto w = random_params<net, double>(3);
    w.write("0.router", std::vector<double>{-1, -1});
    w.write("1.weight", std::vector<double>{1, 0, 0, 1});
    tape<net, double> t;
    const std::vector<double> x{1, 2, 3, 4, 5, 6};
    CHECK(run_infer(w, x, batch::equal(1, 3), t) == x);
    CHECK(run_infer<net, double>(w, {}, batch::equal(0, 0), t).empty());
}

TEST_CASE("depth: no token at all", "[layer][depth]") {
    using net = depth<block<2>, route::learned, keep_permille<500>>;
    const auto w = random_params<net, double>(3);
    for (const batch& rows : {batch::equal(0, 0), batch::ragged({0, 0, 0})}) {
        tape<net, double> t;
        auto g = random_params<net, double>(4);
        CHECK(run_forward<net, double>(w, {}, rows, t).empty());
        CHECK(t.aux_loss() == 0.0);
        CHECK(run_backward<net, double>(w, {}, t, g).empty());
        for (const auto& info : params<net, double>::tensors()) {
            for (double v : g.read(info)) CHECK(v == 0.0);
        }
    }
}

TEST_CASE("depth: float agrees with double", "[layer][depth]") {
    // Scores near 1 with gaps far above float rounding, so that both select the same rows.
    CHECK(mox_test::float_distance<depth<block<9>, route::learned, keep_permille<500>>>(
              batch::ragged({6, 1, 9}), 4) < 2e-5);
}
