#include <mox/layer/lora.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/gradients.hpp"
#include "../support/layers.hpp"

using namespace mox;
using namespace mox_test;
using Catch::Matchers::Contains;

namespace {

using base = linear<7, 9>;
constexpr adapter_spec sparse16{.rank = 16, .alpha = 8};
constexpr adapter_spec rank6{.rank = 6, .alpha = 9}, kept3{.rank = 4, .alpha = 3, .kept_ranks = 3},
    dropping{.rank = 5, .alpha = 8, .dropout = 0.25};
using plain = lora<base, rank6>;
using smora = lora<base, rank6, rank_gate::sigmoid_top_k<2>>;
using shared_scores = lora<base, rank6, rank_gate::sigmoid_top_k<4, 2>>;
using fly = lora<base, rank6, rank_gate::strongest<2>>;
// Few ranks of many: picked row by row.
constexpr adapter_spec rank9{.rank = 9, .alpha = 9}, dropping9{.rank = 9, .alpha = 8, .dropout = 0.25};
using picked_smora = lora<base, rank9, rank_gate::sigmoid_top_k<2>>;
using picked_fly = lora<base, rank9, rank_gate::strongest<2>>;
static_assert(picked_smora::picks && picked_fly::picks && !smora::picks && !fly::picks);
using moram = lora<base, kept3, rank_gate::self_activated<3, coefficient{0.3}>>;

}  // namespace

TEST_CASE("lora: gradients of every gate", "[layer][lora]") {
    const auto ragged = batch::ragged({3, 0, 5, 1});
    gradients<plain>(ragged);
    gradients<lora<linear<7, 9, bias::with>, kept3>>(ragged);
    gradients<lora<base, dropping>>(ragged);
    gradients<smora>(ragged);
    gradients<shared_scores>(ragged);
    gradients<
        lora<base, rank6,
             rank_gate::sigmoid_top_k<4, 2, coefficient{0.01}, rank_gate::score_form::softmax_on_selected>>>(
        ragged);
    gradients<lora<base, kept3,
                   rank_gate::self_activated<3, coefficient{0.3}, coefficient{0.2}, coefficient{50.0}>>>(
        ragged);
    gradients<fly>(ragged);
    gradients<picked_smora>(ragged);
    gradients<picked_fly>(ragged);
    gradients<lora<base, dropping9, rank_gate::sigmoid_top_k<2>>>(ragged);
    gradients<moram>(ragged);
    gradients<lora<base, dropping, rank_gate::sigmoid_top_k<2>>>(ragged);
    // Inside a network, twice around the same layer, and around a layer that is not a product.
    gradients<stack<plain, residual<rms_norm<9>, lora<lora<swiglu<9, 5>, rank6>, rank6>>>>(ragged);
}

TEST_CASE("lora: one rank chosen has weight one, and the router learns nothing", "[layer][lora]") {
    gradients<lora<base, rank6, rank_gate::sigmoid_top_k<1>>>({.tolerance = 1e-8, .may_be_zero = {"router"}},
                                                              batch::equal(1, 9));
    using net = lora<base, rank6, rank_gate::sigmoid_top_k<1>>;
    const auto w = random_params<net, double>(4);
    tape<net, double> t;
    params<net, double> g;
    run_forward(w, normal_numbers<double>(7 * 9, 1), batch::equal(1, 9), t);
    for (index_t i = 0; i < 9; ++i) CHECK(t.routing()[0].gate(i, 0) == 1);
    run_backward(w, normal_numbers<double>(9 * 9, 2), t, g);
    for (const double v : g.read("router")) CHECK(v == 0.0);
}

TEMPLATE_TEST_CASE("lora: starts as its base, bit for bit, with gradients for B only", "[layer][lora]", plain,
                   smora, fly, picked_smora, picked_fly, moram, (lora<base, dropping>)) {
    using net = TestType;
    const params<net> w(init::standard, 3);
    params<base> only;
    copy_matching(w, only);
    const auto x = normal_numbers<float>(77, 1), dy = normal_numbers<float>(99, 2);
    const auto rows = batch::equal(1, 11);
    tape<net> t;
    tape<base> u;
    CHECK(run_forward(w, x, rows, t) == run_forward(only, x, rows, u));
    params<net> g;
    run_backward(w, dy, t, g);
    for (const auto& info : params<net>::tensors()) {
        if (!info.spec.trained) continue;
        double sum = 0;
        for (const float v : g.read(info)) sum += std::abs(static_cast<double>(v));
        INFO(info.path);
        CHECK((sum > 0) == (info.path == "b"));
    }
}

TEST_CASE("lora: the usual start of A", "[layer][lora]") {
    constexpr adapter_spec wide{.rank = 64};
    const params<lora<linear<100, 3>, wide>, double> w(init::standard, 3);
    double largest = 0, square = 0;
    const auto a = w.read("a");
    for (const double v : a) {
        largest = std::max(largest, std::abs(v));
        square += v * v;
    }
    CHECK(largest <= 0.1);
    CHECK(largest > 0.099);
    CHECK(std::sqrt(3 * square / static_cast<double>(a.size())) == Approx(0.1).epsilon(0.02));
    for (const double v : w.read("b")) REQUIRE(v == 0.0);
    // Of experts, too, and in the width that a map reads.
    const auto check_uniform = [](const std::vector<double>& v, double bound) {
        CHECK(*std::max_element(v.begin(), v.end()) <= bound);
        CHECK(*std::max_element(v.begin(), v.end()) > 0.99 * bound);
        CHECK(*std::min_element(v.begin(), v.end()) < -0.99 * bound);
    };
    using experts_of_100 = lora_experts<linear<100, 3>, 5, wide, route::top_k<2>>;
    check_uniform(params<experts_of_100, double>(init::standard, 3).read("a"), 0.1);
    constexpr mixlora_spec around{.adapter = wide};
    const params<mixlora<25, 400, activation::silu, 3, around, route::top_k<2>>, double> m(init::standard, 3);
    check_uniform(m.read("gate_a"), 0.2);
    check_uniform(m.read("up_a"), 0.2);
    check_uniform(m.read("down_a"), 0.05);
    // The other start: normal, one deviation for experts of any number.
    const auto check_normal = [](const std::vector<double>& v, double deviation) {
        double sum = 0, squares = 0;
        for (const double i : v) {
            sum += i;
            squares += i * i;
        }
        const auto n = static_cast<double>(v.size());
        CHECK(std::sqrt(squares / n) == Approx(deviation).epsilon(0.03));
        CHECK(std::abs(sum / n) < 0.05 * deviation);
    };
    constexpr adapter_spec normal{.rank = 16, .gaussian = true};
    check_normal(params<lora<linear<100, 3>, normal>, double>(init::standard, 3).read("a"), 1.0 / 16);
    using bank = lora_experts<linear<100, 3>, 5, normal, route::top_k<2>>;
    check_normal(params<bank, double>(init::standard, 3).read("a"), 1.0 / 16);
    // SMoRA's router starts like any map.
    using routed = lora<linear<100, 3>, wide, rank_gate::sigmoid_top_k<8>>;
    const auto router = params<routed, double>(init::standard, 3).read("router");
    CHECK(*std::max_element(router.begin(), router.end()) <= 0.1);
    CHECK(*std::max_element(router.begin(), router.end()) > 0.099);
}

TEST_CASE("lora: the scale is alpha by the rank, or by its root", "[layer][lora]") {
    static_assert(adapter_spec{.rank = 16, .alpha = 8}.scale() == 0.5);
    static_assert(adapter_spec{.rank = 16, .alpha = 8, .rank_stabilised = true}.scale() == 2);
    static_assert(adapter_spec{.rank = 16}.scale() == 1);
    // Ranks kept from earlier tasks do not count; SMoRA's update is scaled by alpha alone.
    static_assert(adapter_spec{.rank = 4, .alpha = 8, .kept_ranks = 4}.scale() == 2);
    CHECK(lora<base, rank6>::scale == 1.5);
    CHECK(lora<base, rank6, rank_gate::sigmoid_top_k<2>>::scale == 9);
    CHECK(lora<base, rank6, rank_gate::strongest<2>>::scale == 1.5);
    CHECK(adapter_spec{.rank = 8, .alpha = 3, .rank_stabilised = true}.scale() == Approx(3 / std::sqrt(8.0)));
}

TEST_CASE("lora: picking ranks is the product with zeros in it", "[layer][lora]") {
    // A ninth of the ranks with the same A, B and router beside a gate that has too many to pick.
    const auto w = random_params<picked_smora, double>(4);
    const auto x = normal_numbers<double>(140, 1), dy = normal_numbers<double>(180, 2);
    tape<picked_smora, double> t;
    params<picked_smora, double> g;
    const auto y = run_forward(w, x, batch::equal(1, 20), t);
    const auto dx = run_backward(w, dy, t, g);
    // Three empty ranks fewer: the same function without the ranks that nobody chooses.
    auto few = w;
    few.write("select_bias", std::vector<double>{0, 0, 0, 0, 0, 0, -9, -9, -9});
    params<smora, double> v;
    for (const auto& info : params<smora, double>::tensors()) {
        auto values = few.read(info.path);
        if (info.path == "router") {
            std::vector<double> columns;
            for (std::size_t i = 0; i < 7; ++i)
                columns.insert(columns.end(), values.begin() + static_cast<std::ptrdiff_t>(9 * i),
                               values.begin() + static_cast<std::ptrdiff_t>(9 * i + 6));
            values = columns;
        }
        values.resize(static_cast<std::size_t>(info.spec.logical_size()));
        v.write(info, values);
    }
    tape<smora, double> u;
    params<smora, double> h;
    const auto a = run_forward(few, x, batch::equal(1, 20), t), b = run_forward(v, x, batch::equal(1, 20), u);
    CHECK(distance(a, b) < 1e-13);
    CHECK(distance(run_backward(few, dy, t, g), run_backward(v, dy, u, h)) < 1e-13);
    auto da = g.read("a");
    da.resize(42);
    CHECK(distance(da, h.read("a")) < 1e-13);
    CHECK(y != a);
    CHECK(dx.size() == x.size());
}

TEST_CASE("lora: the frozen projection of flylora is sparse", "[layer][lora]") {
    constexpr adapter_spec rank8{.rank = 8, .alpha = 16};
    using layer = lora<linear<100, 9>, rank8, rank_gate::strongest<2>>;
    const params<layer, double> w(init::standard, 3), again(init::standard, 3), other(init::standard, 4);
    const auto a = w.read("a");
    std::vector<int> used(100, 0);
    double square = 0;
    for (std::size_t r = 0; r < 8; ++r) {
        int values = 0;
        for (std::size_t j = 0; j < 100; ++j) {
            const double v = a[r * 100 + j];
            values += v != 0.0;
            used[j] += v != 0.0;
            square += v * v;
        }
        CHECK(values == 25);
    }
    CHECK(std::sqrt(square / 200) == Approx(1.0 / 8).epsilon(0.15));
    // Every input is as likely as another, and rows differ.
    CHECK(*std::max_element(used.begin(), used.end()) < 8);
    CHECK(std::count(used.begin(), used.end(), 0) < 30);
    CHECK(again.read("a") == a);
    CHECK(other.read("a") != a);
    CHECK(!params<layer>::tensors()[0].spec.trained);
}

// An index of the values lies behind A; every way to write A keeps it true.
TEST_CASE("lora: a loaded projection of flylora may be anything", "[layer][lora]") {
    constexpr adapter_spec rank8{.rank = 8, .alpha = 16};
    using layer = lora<linear<100, 9>, rank8, rank_gate::strongest<2>>;
    static_assert(layer::flops(0) == linear<100, 9>::flops(0) + 2.0 * 8 * 25 + 2.0 * 2 * 9);
    params<layer> w(init::standard, 3);
    w.write("b", normal_numbers<float>(72, 5));
    const auto values = [&] { return std::as_const(w).ref().sparse<0>().size(); };
    CHECK(values() == 200);
    const auto x = normal_numbers<float>(64 * 100, 1);
    for (const int every : {1, 2, 3, 100}) {
        auto a = normal_numbers<float>(800, 7);
        for (std::size_t i = 0; i < a.size(); ++i) a[i] = static_cast<int>(i) % every == 0 ? a[i] : 0.0f;
        w.write("a", a);
        CHECK(values() == (every == 1 ? -1 : (799 + every) / every));
        const params<layer> copy = w;
        tape<layer> t, single;
        const auto y = run_forward(copy, x, batch::equal(1, 64), t);
        for (std::size_t i = 0; i < 64; i += 21) {
            const std::vector<float> token(x.begin() + static_cast<std::ptrdiff_t>(100 * i),
                                           x.begin() + static_cast<std::ptrdiff_t>(100 * i + 100));
            const auto alone = run_forward(copy, token, batch::equal(1, 1), single);
            const std::vector<float> same(y.begin() + static_cast<std::ptrdiff_t>(9 * i),
                                          y.begin() + static_cast<std::ptrdiff_t>(9 * i + 9));
            CHECK(distance(alone, same) < 1e-4);
        }
    }
    w.zero();
    CHECK(values() == -1);
}

TEST_CASE("lora: the update is linear in alpha", "[layer][lora]") {
    constexpr adapter_spec twice{.rank = 6, .alpha = 18}, none{.rank = 6},
        root{.rank = 6, .alpha = 9, .rank_stabilised = true};
    CHECK(none.scale() == 1);
    CHECK(rank6.scale() == 1.5);
    CHECK(root.scale() == Approx(9 / std::sqrt(6.0)).epsilon(1e-14));
    const auto w = random_params<plain, double>(4);
    params<lora<base, twice>, double> v;
    copy_matching(w, v);
    params<base, double> only;
    copy_matching(w, only);
    const auto x = normal_numbers<double>(35, 1);
    const auto rows = batch::equal(1, 5);
    tape<plain, double> t;
    tape<lora<base, twice>, double> u;
    tape<base, double> s;
    const auto y0 = run_forward(only, x, rows, s), y1 = run_forward(w, x, rows, t),
               y2 = run_forward(v, x, rows, u);
    for (std::size_t i = 0; i < y0.size(); ++i) CHECK(y2[i] - y0[i] == Approx(2 * (y1[i] - y0[i])));
}

TEST_CASE("lora: permuting ranks changes nothing", "[layer][lora]") {
    const auto w = random_params<smora, double>(4);
    auto v = w;
    const std::vector<std::size_t> order{3, 5, 0, 1, 4, 2};
    const auto permute = [&](const std::string& path, std::size_t rows, std::size_t stride,
                             std::size_t step) {
        const auto from = w.read(path);
        auto to = from;
        for (std::size_t i = 0; i < order.size(); ++i) {
            for (std::size_t j = 0; j < rows; ++j)
                to[i * stride + j * step] = from[order[i] * stride + j * step];
        }
        v.write(path, to);
    };
    permute("a", 7, 7, 1);
    permute("b", 9, 9, 1);
    permute("router", 7, 1, 6);
    permute("select_bias", 1, 1, 1);
    const auto x = normal_numbers<double>(70, 1);
    tape<smora, double> t;
    const auto rows = batch::equal(1, 10);
    const auto y = run_forward(w, x, rows, t);
    CHECK(distance(run_forward(v, x, rows, t), y) < 1e-13);
}

TEST_CASE("lora: ranks that nobody chose have exactly zero gradients", "[layer][lora]") {
    auto w = random_params<smora, double>(4);
    w.write("select_bias", std::vector<double>{-1, 0, 0, -1, 0, 0});
    const auto x = normal_numbers<double>(70, 1), dy = normal_numbers<double>(90, 2);
    tape<smora, double> t;
    params<smora, double> g;
    run_forward(w, x, batch::equal(1, 10), t);
    const auto counts = t.stats<smora>().tokens_per_expert;
    CHECK(counts[0] == 0);
    CHECK(counts[3] == 0);
    CHECK(counts[0] + counts[1] + counts[2] + counts[3] + counts[4] + counts[5] == 20);
    run_backward(w, dy, t, g);
    const auto a = g.read("a"), b = g.read("b");
    for (const std::size_t rank : {std::size_t{0}, std::size_t{3}}) {
        for (std::size_t j = 0; j < 7; ++j) CHECK(a[rank * 7 + j] == 0.0);
        for (std::size_t j = 0; j < 9; ++j) CHECK(b[rank * 9 + j] == 0.0);
    }
}

TEST_CASE("lora: no token and one token", "[layer][lora]") {
    const auto w = random_params<moram, float>(4);
    tape<moram> t;
    CHECK(nothing_from_no_token<moram>());
    CHECK(nothing_from_no_token<smora>());
    const auto x = normal_numbers<float>(14, 1);
    const auto both = run_forward(w, x, batch::equal(1, 2), t);
    const std::vector<float> last(x.begin() + 7, x.end());
    const auto one = run_forward(w, last, batch::equal(1, 1), t);
    CHECK(std::vector<float>(both.begin() + 9, both.end()) == one);
}

TEST_CASE("lora: NaN passes through its own token only", "[layer][lora]") {
    const auto check = [](auto net) {
        using layer = typename decltype(net)::type;
        const auto w = random_params<layer, float>(4);
        auto x = normal_numbers<float>(21, 1);
        tape<layer> t;
        const auto y = run_forward(w, x, batch::equal(1, 3), t);
        x[7] = std::nanf("");
        const auto z = run_forward(w, x, batch::equal(1, 3), t);
        for (std::size_t i = 0; i < 27; ++i) CHECK((i / 9 == 1 ? std::isnan(z[i]) : z[i] == y[i]));
    };
    check(std::type_identity<plain>{});
    check(std::type_identity<smora>{});
    check(std::type_identity<fly>{});
    check(std::type_identity<picked_smora>{});
    check(std::type_identity<picked_fly>{});
    check(std::type_identity<moram>{});
}

TEST_CASE("lora: float agrees with double", "[layer][lora]") {
    // Sums of at most 9 products of size about 1 through three maps.
    constexpr double bound = 5e-5;
    const auto rows = batch::ragged({4, 1, 9});
    CHECK(float_distance<stack<plain, linear<9, 4>>>(rows, 5) < bound);
}

TEST_CASE("lora: the same bits for any number of threads", "[layer][lora]") {
    using net =
        stack<lora<linear<70, 130>, rank6, rank_gate::sigmoid_top_k<2>>, lora<linear<130, 70>, dropping>,
              lora<linear<70, 33>, kept3, rank_gate::self_activated<3>>>;
    CHECK(same_for_threads<net>(batch::ragged({300, 200})));
    using picking = stack<lora<linear<70, 130>, rank9, rank_gate::sigmoid_top_k<2>>,
                          lora<linear<130, 70>, dropping9, rank_gate::strongest<2>>>;
    CHECK(same_for_threads<picking>(batch::ragged({300, 200})));
}

TEST_CASE("lora: dropout falls on the adapter's input, in training only", "[layer][lora]") {
    using net = lora<base, dropping>;
    auto w = random_params<net, double>(4);
    const auto x = normal_numbers<double>(7 * 40, 1);
    const auto rows = batch::equal(1, 40);
    tape<net, double> t;
    t.set_step(5);
    const auto first = run_forward(w, x, rows, t), second = run_forward(w, x, rows, t);
    CHECK(first != second);
    t.set_step(5);
    CHECK(run_forward(w, x, rows, t) == first);
    t.set_seed(9);
    t.set_step(5);
    CHECK(run_forward(w, x, rows, t) != first);
    // In evaluation nothing is dropped.
    constexpr adapter_spec without{.rank = 5, .alpha = 8};
    params<lora<base, without>, double> v;
    copy_matching(w, v);
    tape<lora<base, without>, double> u;
    CHECK(run_infer(w, x, rows, t) == run_infer(v, x, rows, u));
    // The base sees all of x.
    w.write("b", std::vector<double>(45, 0.0));
    v.write("b", std::vector<double>(45, 0.0));
    CHECK(run_forward(w, x, rows, t) == run_forward(v, x, rows, u));
}

// From as many tokens on as a register holds, a frozen projection that is mostly zero runs as a sparse
// product: the same numbers as token by token.
TEMPLATE_TEST_CASE("lora: a sparse projection gives what the dense one gives", "[layer][lora]", float,
                   double) {
    using T = TestType;
    constexpr index_t in = 100, out = 37, part = 1, parts = 150;
    using net = lora<linear<in, out>, sparse16, rank_gate::strongest<4>>;
    const double bound = std::is_same_v<T, double> ? 1e-12 : 1e-4;
    params<net, T> w(init::standard, 3);
    const auto b = normal_numbers<T>(16 * out, 9);
    w.write("b", b);
    const auto a = w.read("a");
    REQUIRE(2 * std::count_if(a.begin(), a.end(), [](T v) { return v != T(0); }) <= 16 * in);
    const auto x = normal_numbers<T>(in * part * parts, 1), dy = normal_numbers<T>(out * part * parts, 2);
    tape<net, T> whole;
    const auto y = run_forward(w, x, batch::equal(1, part * parts), whole);
    params<net, T> g;
    const auto dx = run_backward(w, dy, whole, g);
    std::vector<T> ys, dxs, db(static_cast<std::size_t>(16 * out), T(0));
    for (index_t p = 0; p < parts; ++p) {
        const std::vector<T> x_part(x.begin() + p * in * part, x.begin() + (p + 1) * in * part),
            dy_part(dy.begin() + p * out * part, dy.begin() + (p + 1) * out * part);
        tape<net, T> tape_part;
        const auto y_part = run_forward(w, x_part, batch::equal(1, part), tape_part);
        ys.insert(ys.end(), y_part.begin(), y_part.end());
        params<net, T> g_part;
        const auto dx_part = run_backward(w, dy_part, tape_part, g_part);
        dxs.insert(dxs.end(), dx_part.begin(), dx_part.end());
        const auto db_part = g_part.read("b");
        for (std::size_t i = 0; i < db.size(); ++i) db[i] += db_part[i];
    }
    CHECK(distance(y, ys) < bound);
    CHECK(distance(dx, dxs) < bound);
    CHECK(distance(g.read("b"), db) < 20 * bound);
}

// The choice is made of the sums in place there: of equal ones the first ranks, and a token that is not a
// number is alone with it.
TEMPLATE_TEST_CASE("lora: the choice of a sparse projection, with ties and NaN", "[layer][lora]", float,
                   double) {
    using T = TestType;
    constexpr index_t in = 100, out = 37, tokens = 323;
    using net = lora<linear<in, out>, sparse16, rank_gate::strongest<4>>;
    params<net, T> w(init::standard, 3);
    w.write("b", normal_numbers<T>(16 * out, 9));
    auto x = normal_numbers<T>(in * tokens, 1);
    std::fill_n(x.begin() + 7 * in, in, T(0));
    tape<net, T> t;
    const auto y = run_forward(w, x, batch::equal(1, tokens), t);
    const auto choice = [&](index_t token) {
        const row_t* const at = t.routing()[0].chosen + 4 * token;
        return std::vector<row_t>(at, at + 4);
    };
    CHECK(choice(7) == std::vector<row_t>{0, 1, 2, 3});
    const auto a = w.read("a");
    std::vector<index_t> counts(16, 0);
    for (index_t token = 0; token < tokens; ++token) {
        std::vector<double> strength(16, 0.0);
        for (std::size_t r = 0; r < 16; ++r) {
            for (std::size_t c = 0; c < in; ++c)
                strength[r] += static_cast<double>(a[r * in + c]) *
                               static_cast<double>(x[static_cast<std::size_t>(token * in) + c]);
            strength[r] = std::abs(strength[r]);
        }
        std::vector<row_t> expected(4);
        kernel::top_k_row<double>(strength.data(), 16, 4, expected.data());
        std::sort(expected.begin(), expected.end());
        CHECK(choice(token) == expected);
        for (const row_t r : expected) ++counts[static_cast<std::size_t>(r)];
    }
    for (std::size_t r = 0; r < 16; ++r) CHECK(t.routing()[0].counts[r] == counts[r]);
    CHECK((t.routing()[0].gate(7, 0) == 1 && t.routing()[0].gate(tokens - 1, 3) == 1));

    thread_pool three(3);
    tape<net, T> shared_out(three);
    params<net, T> g, h;
    const auto dy = normal_numbers<T>(out * tokens, 2);
    CHECK(run_forward(w, x, batch::equal(1, tokens), shared_out) == y);
    const row_t *const one = t.routing()[0].chosen, *const more = shared_out.routing()[0].chosen;
    CHECK(std::equal(one, one + 4 * tokens, more));
    CHECK(run_backward(w, dy, t, g) == run_backward(w, dy, shared_out, h));
    CHECK(g.read("b") == h.read("b"));

    x[9 * in + 50] = std::numeric_limits<T>::quiet_NaN();
    auto other = run_forward(w, x, batch::equal(1, tokens), t);
    const auto chosen = choice(9);
    CHECK(std::adjacent_find(chosen.begin(), chosen.end(), std::greater_equal<>()) == chosen.end());
    CHECK((chosen.front() >= 0 && chosen.back() < 16));
    std::copy_n(y.begin() + 9 * out, out, other.begin() + 9 * out);
    CHECK(other == y);
}

TEST_CASE("lora: a gate scores what the update reads, dropout included", "[layer][lora]") {
    // Tokens with one feature: where it is dropped all scores are equal and the lowest ranks are taken, with
    // an update of zero; else the last ranks win.
    const auto check = [](auto type, const std::vector<row_t>& of_nothing) {
        using net = typename decltype(type)::type;
        auto w = random_params<net, double>(4);
        for (const auto& info : params<net, double>::tensors()) {
            auto v = w.read(info);
            const std::size_t of_rank = info.path == "a" ? 7 : 1;
            if (info.path == "select_bias") std::fill(v.begin(), v.end(), 0.0);
            if (info.path == "router" || info.path == "a") {
                for (std::size_t r = 0; r < static_cast<std::size_t>(net::ranks); ++r)
                    v[r * of_rank] = 0.1 * static_cast<double>(r + 1);
            }
            w.write(info, v);
        }
        params<base, double> only;
        copy_matching(w, only);
        const auto x = first_features(200, 7);
        tape<net, double> t;
        tape<base, double> u;
        const auto rows = batch::equal(1, 200);
        const auto y = run_forward(w, x, rows, t), y0 = run_forward(only, x, rows, u);
        const routing_record& r = t.routing()[0];
        int dropped = 0;
        for (index_t i = 0; i < 200; ++i) {
            const std::vector<row_t> chosen(r.chosen + i * r.slots, r.chosen + (i + 1) * r.slots);
            const bool nothing = std::equal(y.begin() + i * 9, y.begin() + (i + 1) * 9, y0.begin() + i * 9);
            CHECK((chosen == of_nothing) == nothing);
            dropped += nothing ? 1 : 0;
        }
        CHECK(dropped > 25);
        CHECK(dropped < 75);
        run_infer(w, x, rows, t);
        for (index_t i = 0; i < 200; ++i) CHECK(t.routing()[0].chosen[i * r.slots] != 0);
    };
    constexpr adapter_spec six{.rank = 6, .alpha = 8, .dropout = 0.25},
        nine{.rank = 9, .alpha = 8, .dropout = 0.25};
    check(std::type_identity<lora<base, six, rank_gate::sigmoid_top_k<2>>>{}, {0, 1});
    check(std::type_identity<lora<base, nine, rank_gate::sigmoid_top_k<2>>>{}, {0, 1});
    check(std::type_identity<lora<base, six, rank_gate::strongest<2>>>{}, {0, 1});
    check(std::type_identity<lora<base, nine, rank_gate::strongest<2>>>{}, {0, 1});
    check(std::type_identity<lora<base, six, rank_gate::self_activated<3>>>{}, {0, 1, 2});
}

TEST_CASE("lora: equal router columns tie bit for bit, wherever they lie", "[layer][lora]") {
    // 70 ranks: several panels, the last one narrower, for every number of tokens a tile can have.
    constexpr adapter_spec wide{.rank = 70};
    using net = lora<base, wide, rank_gate::sigmoid_top_k<70>>;
    const auto check = [](auto zero) {
        using T = decltype(zero);
        auto w = random_params<net, T>(4);
        const auto column = normal_numbers<T>(7, 9);
        std::vector<T> router;
        for (const T v : column) router.insert(router.end(), 70, v);
        w.write("router", router);
        w.write("select_bias", std::vector<T>(70, T(0)));
        tape<net, T> t;
        for (const index_t tokens : {1, 2, 5, 13, 37}) {
            run_forward(w, normal_numbers<T>(7 * tokens, 3), batch::equal(1, tokens), t);
            for (index_t i = 0; i < tokens; ++i) {
                for (row_t r = 0; r < 70; ++r) REQUIRE(t.routing()[0].chosen[i * 70 + r] == r);
            }
        }
    };
    check(0.0);
    check(0.0f);
}

TEST_CASE("lora: what a gate costs is told", "[layer][lora]") {
    constexpr adapter_spec wide{.rank = 64, .alpha = 64};
    using map = linear<100, 90>;
    // A router of n x r, and k rows of A and of B.
    using chosen = lora<map, wide, rank_gate::sigmoid_top_k<8>>;
    CHECK(chosen::flops(1) == map::flops(1) + 2.0 * 100 * 64 + 2.0 * 8 * 100 + 2.0 * 8 * 90);
    // Activations of all ranks, their norm, and k rows of B.
    using memory = lora<map, wide, rank_gate::self_activated<8>>;
    CHECK(memory::flops(1) == map::flops(1) + 2.0 * 100 * 64 + 4.0 * 64 + 2.0 * 8 * 90);
}
