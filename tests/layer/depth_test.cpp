#include <mox/layer/depth.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/gradients.hpp"
#include "../support/layers.hpp"

using namespace mox;
using namespace mox_test;

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
    CHECK(float_distance<depth<block<9>, route::learned, keep_permille<500>>>(batch::ragged({6, 1, 9}), 4) <
          2e-5);
}

TEST_CASE("depth: a predictor learns beside the model and touches nothing else", "[layer][depth]") {
    using plain = depth<block<5>, route::learned, keep_permille<500>, sampling::whole_sequence>;
    using predicted = depth<block<5>, route::learned, keep_permille<500>, sampling::predictor<6>>;
    const batch rows = batch::ragged({7, 0, 1, 4});
    const auto w = random_params<predicted, double>(3);
    params<plain, double> v;
    for (const auto& info : params<plain, double>::tensors()) v.write(info.path, w.read(info.path));
    const auto x = normal_numbers<double>(60, 4), dy = normal_numbers<double>(60, 5);
    tape<predicted, double> t;
    tape<plain, double> u;
    params<predicted, double> g;
    params<plain, double> h;
    // Training selects by capacity: the same output, and the same gradients of router, block and input.
    CHECK(run_forward(w, x, rows, t) == run_forward(v, x, rows, u));
    CHECK(t.aux_loss() > 0.0);
    CHECK(run_backward(w, dy, t, g) == run_backward(v, dy, u, h));
    for (const auto& info : params<plain, double>::tensors()) CHECK(g.read(info.path) == h.read(info.path));
    // Its own gradients are right; only the input's differ from central differences, by the cut path.
    const auto r = gradcheck<predicted>({}, rows);
    for (const gradcheck_row& row : r.rows) {
        INFO(row.path);
        CHECK((row.worst < 1e-7) == (row.path != "input"));
    }
    // In evaluation its sign decides, for each token alone.
    run_infer(w, x, rows, t);
    const auto hidden = w.read("predictor.hidden"), shift = w.read("predictor.hidden_bias"),
               out = w.read("predictor.out");
    std::vector<row_t> expected;
    for (std::size_t i = 0; i < 12; ++i) {
        double logit = w.read("predictor.out_bias")[0];
        for (std::size_t j = 0; j < 6; ++j) {
            double a = shift[j];
            for (std::size_t k = 0; k < 5; ++k) a += x[i * 5 + k] * hidden[k * 6 + j];
            logit += out[j] * a / (1 + std::exp(-a));
        }
        if (logit > 0) expected.push_back(static_cast<row_t>(i));
    }
    const routing_record& log = t.routing()[0];
    CHECK(std::vector<row_t>(log.selected, log.selected + log.selected_count) == expected);
    CHECK((!expected.empty() && expected.size() < 12));
}

TEST_CASE("depth: the first tokens can be sure of their place", "[layer][depth]") {
    using net =
        depth<block<2>, route::learned, keep_permille<250>, always_first<1>, sampling::whole_sequence>;
    auto w = random_params<net, double>(3);
    w.write("router", std::vector<double>{1, 0});
    // Scores 0..7 rise, so without the policy 6 and 7 pass; NaN and the smallest score do not matter at the
    // first place.
    std::vector<double> x;
    for (int i = 0; i < 8; ++i) x.insert(x.end(), {static_cast<double>(i), 1.0});
    tape<net, double> t;
    const auto selected = [&](const batch& rows) {
        run_forward(w, x, rows, t);
        const routing_record& r = t.routing()[0];
        return std::vector<row_t>(r.selected, r.selected + r.selected_count);
    };
    CHECK(selected(batch::equal(1, 8)) == std::vector<row_t>{0, 7});
    CHECK(selected(batch::ragged({5, 3})) == std::vector<row_t>{0, 5});
    x[0] = std::numeric_limits<double>::quiet_NaN();
    CHECK(selected(batch::equal(1, 8)) == std::vector<row_t>{0, 7});
    // More sure places than capacity, and more than the sequence has tokens.
    using many = depth<block<2>, route::random, keep_permille<250>, always_first<3>>;
    const auto v = random_params<many, double>(3);
    tape<many, double> u;
    run_forward(v, normal_numbers<double>(16, 3), batch::ragged({6, 2}), u);
    const routing_record& r = u.routing()[0];
    CHECK(std::vector<row_t>(r.selected, r.selected + r.selected_count) == std::vector<row_t>{0, 1, 2, 6, 7});
}

TEST_CASE("depth: gradients of every policy", "[layer][depth]") {
    gradcheck_options o;
    o.samples = 24;
    const batch ragged = batch::ragged({5, 0, 1, 6});
    using inner = residual<rms_norm<4>, attention<attention_spec{.width = 4, .heads = 2}>>;
    using seen = residual<attention<attention_spec{.width = 4, .heads = 2}, mask::full>>;
    gradients<depth<block<4>, route::random, keep_permille<500>, always_first<1>>>(o, ragged);
    gradients<depth<inner, route::random, keep_permille<500>, weighting::sigmoid, sampling::threshold>>(
        o, ragged);
    gradients<depth<block<4>, route::learned, keep_annealed<900, 300>, weighting::tanh>>(o, ragged);
    // The score's gradient goes through the attention map, over a sparse block in between, too.
    gradients<stack<seen, depth<block<4>, route::attention_received, keep_permille<500>, weighting::identity,
                                score_gradient::kept>>>(o, ragged);
    gradients<stack<
        inner,
        depth<inner, route::attention_received_per_query, keep_permille<700>, weighting::sigmoid,
              score_gradient::kept>,
        depth<inner, route::attention_received, keep_permille<500>, weighting::tanh, score_gradient::kept>>>(
        o, ragged);
    // Weighted by a score that is not differentiated: the central differences differ, by the cut path.
    using cut =
        stack<seen, depth<block<4>, route::attention_received, keep_permille<500>, weighting::identity>>;
    CHECK_FALSE(gradcheck<cut>(o, ragged).passed);
    using weight_only =
        depth<block<4>, route::learned, keep_permille<500>, sampling::whole_sequence, score_gradient::cut>;
    const auto r = gradcheck<weight_only>(o, ragged);
    for (const gradcheck_row& row : r.rows) {
        INFO(row.path);
        CHECK((row.worst < 1e-7) == (row.path != "input"));
    }
}

TEST_CASE("depth: a token keeps its last score until it is attended again", "[layer][depth]") {
    // The second attention sees only what the first depth layer passed; the others keep their old score.
    using attend = residual<attention<attention_spec{.width = 4, .heads = 1, .rotary = false}, mask::full>>;
    using net = stack<attend, depth<attend, route::attention_received, keep_permille<500>>,
                      depth<block<4>, route::attention_received, keep_permille<500>>>;
    const auto w = random_params<net, double>(8, 1.0);
    const auto x = normal_numbers<double>(40, 9);
    tape<net, double> t;
    run_forward(w, x, batch::equal(1, 10), t);
    REQUIRE(t.routing().size() == 2);
    const std::vector<row_t> sparse(t.routing()[0].selected, t.routing()[0].selected + 5);
    const std::vector<row_t> last(t.routing()[1].selected, t.routing()[1].selected + 5);
    // The attention received, with plain loops: softmax(q k' / 2), summed over queries, divided by their
    // number.
    const auto received = [&](const std::vector<double>& rows, const std::vector<double>& qkv) {
        const std::size_t n = rows.size() / 4;
        std::vector<double> score(n), projected(n * 12);
        for (std::size_t i = 0; i < n; ++i) {
            for (std::size_t c = 0; c < 12; ++c) {
                for (std::size_t k = 0; k < 4; ++k)
                    projected[i * 12 + c] += rows[i * 4 + k] * qkv[k * 12 + c];
            }
        }
        for (std::size_t i = 0; i < n; ++i) {
            std::vector<double> p(n);
            double sum = 0;
            for (std::size_t j = 0; j < n; ++j) {
                double dot = 0;
                for (std::size_t k = 0; k < 4; ++k) dot += projected[i * 12 + k] * projected[j * 12 + 4 + k];
                sum += p[j] = std::exp(dot / 2);
            }
            for (std::size_t j = 0; j < n; ++j) score[j] += p[j] / sum / static_cast<double>(n);
        }
        return score;
    };
    auto scores = received(x, w.read("0.0.qkv"));
    CHECK(plain_selection(scores, {10}, 500) == sparse);
    // What the sparse attention read: the output of the dense one at the selected rows.
    using first = stack<attend>;
    params<first, double> v;
    for (const char* name : {"0.0.qkv", "0.0.out"}) v.write(name, w.read(name));
    tape<first, double> u;
    const auto after = run_forward(v, x, batch::equal(1, 10), u);
    std::vector<double> rows;
    for (const row_t s : sparse) rows.insert(rows.end(), after.begin() + s * 4, after.begin() + s * 4 + 4);
    const auto again = received(rows, w.read("1.0.0.qkv"));
    for (std::size_t i = 0; i < 5; ++i) scores[static_cast<std::size_t>(sparse[i])] = again[i];
    CHECK(plain_selection(scores, {10}, 500) == last);
}

TEST_CASE("depth: capacity follows the progress of training", "[layer][depth]") {
    using net = depth<block<3>, route::learned, keep_annealed<1000, 200>, sampling::whole_sequence>;
    const auto w = random_params<net, double>(3);
    const auto x = normal_numbers<double>(60, 3);
    tape<net, double> t;
    const auto processed = [&](double progress) {
        t.set_progress(progress);
        run_forward(w, x, batch::equal(1, 20), t);
        return t.stats<net>().processed;
    };
    CHECK(processed(0) == 20);
    CHECK(processed(0.5) == 12);
    CHECK(processed(1) == 4);
    t.set_progress(0);
    run_infer(w, x, batch::equal(1, 20), t);
    CHECK(t.stats<net>().processed == 4);  // evaluation is always that of the end
}

TEST_CASE("depth: the identity as one more expert", "[layer][depth]") {
    // Integrated mixture of depths and experts: a token whose only choice is null passes unchanged.
    using net = residual<moe<experts<3, swiglu<4, 8>>, route::top_k<1>, null_experts<2>, gate::softmax>>;
    const auto w = random_params<net, double>(5, 1.0);
    const auto x = normal_numbers<double>(80, 6);
    tape<net, double> t;
    const auto y = run_forward(w, x, batch::equal(1, 20), t);
    const routing_record& r = t.routing()[0];
    int skipped = 0;
    for (std::ptrdiff_t i = 0; i < 20; ++i) {
        const bool null = r.chosen[i] >= 3;
        skipped += null ? 1 : 0;
        CHECK(std::equal(y.begin() + 4 * i, y.begin() + 4 * i + 4, x.begin() + 4 * i) == null);
    }
    CHECK((skipped > 0 && skipped < 20));
}
