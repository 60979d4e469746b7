#include <mox/layer/lora_experts.hpp>

#include <algorithm>
#include <cmath>
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
constexpr adapter_spec rank2{.rank = 2, .alpha = 5}, dropping{.rank = 2, .alpha = 5, .dropout = 0.2};
template <index_t E, class... Policies>
using bank = lora_experts<base, E, rank2, Policies...>;
using mola = bank<5, route::top_k<2>, balance::load<>>;
using soft = bank<4, route::all, gate::softmax, balance::localised<>>;
using broadcast =
    bank<6, route::entropy_broadcast<>, gate::softmax, balance::soft_load<>, balance::mean_entropy<>>;

}  // namespace

TEST_CASE("lora_experts: gradients of every routing", "[layer][lora]") {
    auto rows = batch::ragged({3, 0, 5, 2});
    rows.with_labels({1, 0, 0, 1});
    gradients<mola>(rows);
    gradients<soft>(rows);
    gradients<bank<4, route::top_k<1>, gate::softmax, balance::counts<>>>(rows);
    gradients<bank<4, route::top_k<3>, balance::specialisation<2>>>(rows);
    gradients<broadcast>(rows);
    using third = entropy::renyi<>;
    gradients<bank<6, route::entropy_broadcast<third>, gate::softmax, balance::mean_entropy<third>>>(rows);
    gradients<lora_experts<base, 4, dropping, route::top_k<2>>>(rows);
    gradients<lora_experts<base, 4, dropping, route::all, gate::softmax>>(rows);
    gradients<bank<4, route::top_k<2>, null_experts<2>>>(rows);
    // Experts around a whole feed-forward network.
    gradients<lora_experts<swiglu<7, 5>, 4, rank2, route::top_k<2>>>(rows);
}

TEST_CASE("lora_experts: a trained layer becomes the frozen base", "[layer][lora]") {
    using trained_net = stack<base, adapted_ffn<9, 4, activation::silu, as_they_are>>;
    using experts = with_lora_experts<3, rank2, route::top_k<2>>;
    using net = stack<experts::around<base>, adapted_ffn<9, 4, activation::silu, experts>>;
    const params<trained_net, double> trained(init::standard, 3);
    params<net, double> w(init::standard, 4);
    const auto report = copy_matching(trained, w);
    CHECK(report.copied == 3);
    CHECK(report.unused.empty());
    CHECK(report.kept.size() == 9);  // router, a and b of each map
    // B is zero: the same function.
    const auto x = normal_numbers<double>(7 * 11, 1);
    const auto rows = batch::equal(1, 11);
    tape<trained_net, double> t;
    tape<net, double> u;
    CHECK(distance(run_forward(w, x, rows, u), run_forward(trained, x, rows, t)) < 1e-13);
}

TEST_CASE("lora_experts: the sum of experts computed one by one", "[layer][lora]") {
    // A plan with few slots runs in groups, one with most of them as plain products: both must be this sum.
    const auto check = [](auto type, index_t experts) {
        using net = typename decltype(type)::type;
        const auto w = random_params<net, double>(4);
        const auto x = normal_numbers<double>(7 * 20, 1);
        const auto rows = batch::equal(1, 20);
        tape<net, double> t;
        const auto y = run_forward(w, x, rows, t);
        params<base, double> only;
        only.write("weight", w.read("0.0.weight"));
        tape<base, double> u;
        auto expected = run_forward(only, x, rows, u);
        const auto a = w.read("a"), b = w.read("b");
        const routing_record& r = t.routing()[0];
        for (index_t i = 0; i < 20 * r.slots; ++i) {
            const index_t token = i / r.slots, e = r.chosen[i];
            if (e < 0 || e >= experts) continue;
            for (index_t j = 0; j < 2; ++j) {
                double z = 0;
                for (index_t k = 0; k < 7; ++k)
                    z += x[static_cast<std::size_t>(token * 7 + k)] *
                         a[static_cast<std::size_t>((e * 2 + j) * 7 + k)];
                for (index_t k = 0; k < 9; ++k) {
                    expected[static_cast<std::size_t>(token * 9 + k)] +=
                        2.5 * static_cast<const double*>(r.gates)[i] * z *
                        b[static_cast<std::size_t>((e * 2 + j) * 9 + k)];
                }
            }
        }
        CHECK(distance(y, expected) < 1e-13);
    };
    check(std::type_identity<mola>{}, 5);
    check(std::type_identity<soft>{}, 4);
    check(std::type_identity<broadcast>{}, 6);
    check(std::type_identity<bank<5, route::top_k<4>>>{}, 5);
    check(std::type_identity<bank<4, route::top_k<3>, null_experts<2>>>{}, 4);
}

TEST_CASE("lora_experts: all chosen is soft mixing, one expert is lora", "[layer][lora]") {
    const auto rows = batch::equal(1, 9);
    const auto x = normal_numbers<double>(63, 1);
    const auto w = random_params<bank<4, route::top_k<4>>, double>(4);
    params<bank<4, route::all, gate::softmax>, double> v;
    copy_matching(w, v);
    tape<bank<4, route::top_k<4>>, double> t;
    tape<bank<4, route::all, gate::softmax>, double> u;
    CHECK(distance(run_forward(w, x, rows, t), run_forward(v, x, rows, u)) < 1e-14);

    using single = bank<1, route::top_k<1>>;
    const auto one = random_params<single, double>(6);
    params<lora<base, rank2>, double> same;
    same.write("a", one.read("a"));
    same.write("b", one.read("b"));
    same.write("0.0.weight", one.read("0.0.weight"));
    tape<single, double> s;
    tape<lora<base, rank2>, double> l;
    CHECK(distance(run_forward(one, x, rows, s), run_forward(same, x, rows, l)) < 1e-14);
}

TEST_CASE("lora_experts: identical experts make the routing irrelevant", "[layer][lora]") {
    auto w = random_params<mola, double>(4);
    auto a = w.read("a"), b = w.read("b");
    for (std::size_t i = 14; i < a.size(); ++i) a[i] = a[i % 14];
    for (std::size_t i = 18; i < b.size(); ++i) b[i] = b[i % 18];
    w.write("a", a);
    w.write("b", b);
    auto v = w;
    v.write("router", normal_numbers<double>(35, 99));
    const auto x = normal_numbers<double>(63, 1);
    tape<mola, double> t;
    const auto y = run_forward(w, x, batch::equal(1, 9), t);
    CHECK(distance(run_forward(v, x, batch::equal(1, 9), t), y) < 1e-13);
}

TEST_CASE("lora_experts: an expert without tokens has exactly zero gradients", "[layer][lora]") {
    auto w = random_params<mola, double>(4);
    std::vector<double> router(35, 0.0);
    w.write("router", router);  // ties: everybody takes experts 0 and 1
    const auto x = normal_numbers<double>(63, 1), dy = normal_numbers<double>(81, 2);
    tape<mola, double> t;
    params<mola, double> g;
    run_forward(w, x, batch::equal(1, 9), t);
    run_backward(w, dy, t, g);
    const auto a = g.read("a"), b = g.read("b");
    for (std::size_t i = 28; i < a.size(); ++i) CHECK(a[i] == 0.0);
    for (std::size_t i = 36; i < b.size(); ++i) CHECK(b[i] == 0.0);
    CHECK(a[0] != 0.0);
}

TEST_CASE("lora_experts: float, threads, and no token", "[layer][lora]") {
    // Sums of at most 9 products of size about 1 through three maps and a softmax.
    CHECK(float_distance<mola>(batch::ragged({4, 1, 9}), 5) < 5e-5);
    CHECK(float_distance<soft>(batch::ragged({4, 1, 9}), 5) < 5e-5);
    using net = stack<lora_experts<linear<70, 130>, 5, rank2, route::top_k<2>, balance::load<>>,
                      lora_experts<linear<130, 33>, 4, dropping, route::all, gate::softmax>>;
    CHECK(same_for_threads<net>(batch::ragged({300, 200})));
    CHECK(nothing_from_no_token<broadcast>());
    CHECK(nothing_from_no_token<mola>());
}

TEST_CASE("lora_experts: lora-mixer mixes all in training and the best three in inference", "[layer][lora]") {
    using mixer = bank<5, route::soft_training<3>, gate::softmax>;
    using divided = bank<5, route::soft_training<3>, gate::renormalised>;
    const auto x = normal_numbers<double>(5 * 7, 2);
    const auto rows = batch::equal(1, 5);
    const auto check = [&](auto layer, auto training, auto inference) {
        using L = typename decltype(layer)::type;
        using A = typename decltype(training)::type;
        using B = typename decltype(inference)::type;
        const auto w = random_params<L, double>(3);
        tape<L, double> t;
        tape<A, double> ta;
        tape<B, double> tb;
        CHECK(distance(run_forward(w, x, rows, t), run_forward(random_params<A, double>(3), x, rows, ta)) <
              1e-13);
        CHECK(distance(run_infer(w, x, rows, t), run_infer(random_params<B, double>(3), x, rows, tb)) <
              1e-13);
    };
    const auto of = [](auto* p) { return std::type_identity<std::remove_pointer_t<decltype(p)>>{}; };
    using soft_all = bank<5, route::all, gate::softmax>;
    check(of(static_cast<mixer*>(nullptr)), of(static_cast<soft_all*>(nullptr)),
          of(static_cast<bank<5, route::top_k<3>, gate::softmax>*>(nullptr)));
    check(of(static_cast<divided*>(nullptr)), of(static_cast<soft_all*>(nullptr)),
          of(static_cast<bank<5, route::top_k<3>>*>(nullptr)));
}

TEST_CASE("lora_experts: at the start the task sends no gradient to router and A", "[layer][lora]") {
    const auto check = [](auto layer) {
        using L = typename decltype(layer)::type;
        auto w = random_params<L, double>(3);
        w.write("b", std::vector<double>(w.read("b").size(), 0.0));
        tape<L, double> t;
        t.set_aux_scale(0);
        params<L, double> g;
        const auto x = normal_numbers<double>(8 * 7, 1);  // backward reads it again
        run_forward(w, x, batch::ragged({3, 5}), t);
        run_backward(w, normal_numbers<double>(8 * 9, 2), t, g);
        for (const double v : g.read("router")) CHECK(v == 0.0);
        for (const double v : g.read("a")) CHECK(v == 0.0);
        double largest = 0;
        for (const double v : g.read("b")) largest = std::max(largest, std::abs(v));
        CHECK(largest > 0.01);
    };
    check(std::type_identity<mola>{});
    check(std::type_identity<soft>{});
    check(std::type_identity<broadcast>{});
}

TEST_CASE("lora_experts: one choice has weight one, and the task teaches the router nothing",
          "[layer][lora]") {
    const auto check = [](auto layer, bool teaches) {
        using L = typename decltype(layer)::type;
        const auto w = random_params<L, double>(3);
        tape<L, double> t;
        params<L, double> g;
        const auto x = normal_numbers<double>(8 * 7, 1);
        const auto y = run_forward(w, x, batch::ragged({3, 5}), t);
        for (index_t i = 0; i < 8; ++i) CHECK((t.routing()[0].gate(i, 0) == 1) == !teaches);
        run_backward(w, normal_numbers<double>(8 * 9, 2), t, g);
        double largest = 0;
        for (const double v : g.read("router")) largest = std::max(largest, std::abs(v));
        CHECK((largest > 1e-3) == teaches);
        // Logits times any positive number choose the same, and without a weight the output is the same.
        auto louder = w;
        auto router = w.read("router");
        for (double& v : router) v *= 3;
        louder.write("router", router);
        CHECK((distance(run_forward(louder, x, batch::ragged({3, 5}), t), y) < 1e-13) == !teaches);
    };
    check(std::type_identity<bank<4, route::top_k<1>>>{}, false);
    check(std::type_identity<bank<4, route::top_k<1>, gate::one>>{}, false);
    check(std::type_identity<bank<4, route::top_k<1>, gate::softmax>>{}, true);
}

TEST_CASE("lora_experts: the routers of papers that start like any map", "[layer][lora]") {
    using wide = lora_experts<linear<100, 3>, 16, rank2, route::top_k<2>, route::uniform_linear_scorer>;
    const auto r = params<wide, double>(init::standard, 3).read("router");
    CHECK(*std::max_element(r.begin(), r.end()) <= 0.1);
    CHECK(*std::max_element(r.begin(), r.end()) > 0.099);
    CHECK(*std::min_element(r.begin(), r.end()) < -0.099);
    gradients<bank<5, route::top_k<2>, route::uniform_linear_scorer>>(batch::ragged({3, 5}));
}

namespace {

// The router's gradients are those beside experts that are trained, and the experts have none.
template <class Trained, class Still>
void check_router_alone(const std::vector<std::string>& router, const batch& rows) {
    const auto w = random_params<Trained, double>(3);
    params<Still, double> v(init::standard, 1);
    copy_matching(w, v);
    const auto x = normal_numbers<double>(rows.rows() * Trained::in, 1),
               dy = normal_numbers<double>(rows.rows() * Trained::out, 2);
    tape<Trained, double> t;
    tape<Still, double> u;
    params<Trained, double> g;
    params<Still, double> h;
    CHECK(run_forward(w, x, rows, t) == run_forward(v, x, rows, u));
    CHECK(distance(run_backward(w, dy, t, g), run_backward(v, dy, u, h)) < 1e-13);
    index_t trained = 0;
    for (const auto& info : params<Still>::tensors()) {
        if (!info.spec.trained) continue;
        trained += info.spec.logical_size();
        CHECK(std::find(router.begin(), router.end(), info.path) != router.end());
    }
    CHECK(trained > 0);
    for (const std::string& path : router) CHECK(distance(g.read(path), h.read(path)) < 1e-13);
    const std::vector<double> before(v.frozen().begin(), v.frozen().end());
    adamw<Still, double> adam({.rate = 0.1});
    for (int step = 0; step < 3; ++step) {
        run_forward(v, x, rows, u);
        run_backward(v, dy, u, h);
        adam.step(v, h);
    }
    CHECK(std::vector<double>(v.frozen().begin(), v.frozen().end()) == before);
    CHECK(v.read(router[0]) != w.read(router[0]));
}

constexpr adapter_spec still2{.rank = 2, .alpha = 5, .frozen = true}, moving2{.rank = 2, .alpha = 5},
    still9{.rank = 9, .frozen = true}, moving9{.rank = 9};
template <adapter_spec Spec, class... Policies>
using experts_of = lora_experts<linear<7, 9>, 5, Spec, Policies...>;
template <adapter_spec Spec, bool Magnitudes = false>
using around_one = mixlora<7, 6, activation::silu, 3, mixlora_spec{.adapter = Spec, .magnitudes = Magnitudes},
                           route::top_k<2>>;

}  // namespace

// The soft phase of LoRA-Mixer, and SteloCoder, whose one gate learns to mix experts that stay.
TEST_CASE("lora_experts: a router learns around experts that do not", "[layer][lora]") {
    const auto rows = batch::ragged({4, 0, 9, 1});
    check_router_alone<experts_of<moving2, route::soft_training<2>, gate::softmax>,
                       experts_of<still2, route::soft_training<2>, gate::softmax>>({"router"}, rows);
    check_router_alone<experts_of<moving2, route::top_k<2>>, experts_of<still2, route::top_k<2>>>({"router"},
                                                                                                  rows);
    check_router_alone<experts_of<moving2, route::sequence_max_linear, route::hard_inference>,
                       experts_of<still2, route::sequence_max_linear, route::hard_inference>>({"router"},
                                                                                              rows);
    check_router_alone<around_one<moving2>, around_one<still2>>({"router"}, rows);
    check_router_alone<around_one<moving2, true>, around_one<still2, true>>({"router"}, rows);
    using learned = rank_gate::sigmoid_top_k<2>;
    check_router_alone<lora<linear<7, 9>, moving9, learned>, lora<linear<7, 9>, still9, learned>>({"router"},
                                                                                                  rows);
    using half = rank_gate::sigmoid_top_k<5>;
    check_router_alone<lora<linear<7, 9>, moving9, half>, lora<linear<7, 9>, still9, half>>({"router"}, rows);
    gradients<experts_of<still2, route::top_k<2>>>(rows);
    gradients<lora<linear<7, 9>, still9>>(rows);
}

// SteloCoder's generation: the prompt chooses the expert, and the rest of the sequence keeps it.
TEST_CASE("lora_experts: the choice of a prompt is kept while tokens follow", "[layer][lora]") {
    using asks = experts_of<moving2, route::sequence_max_linear, route::hard_inference>;
    using keeps = experts_of<moving2, route::by_label, gate::one>;
    const auto w = random_params<asks, double>(3);
    params<keeps, double> v;
    CHECK(copy_matching(w, v).unused == std::vector<std::string>{"router"});
    const auto x = normal_numbers<double>(6 * 7, 1);
    tape<asks, double> t;
    const auto y = run_infer(w, x, batch::equal(1, 6), t);
    const row_t choice = *std::find_if(t.routing()[0].chosen, t.routing()[0].chosen + t.routing()[0].slots,
                                       [](row_t e) { return e >= 0; });
    stream<keeps, double> s(8);
    s.with_label(choice);
    CHECK(distance(flat<double>(decode<keeps, double>(v, matrix_view<const double>(x.data(), 6, 7), s)), y) <
          1e-13);
    const auto next = normal_numbers<double>(7, 2);
    const auto one = flat<double>(decode<keeps, double>(v, matrix_view<const double>(next.data(), 1, 7), s));
    tape<keeps, double> u;
    auto rows = batch::equal(1, 1);
    rows.with_labels({choice});
    CHECK(distance(one, run_infer(v, next, rows, u)) < 1e-13);
}

// The base of a part is what the map wrote, so it comes before shared layers.
TEST_CASE("lora_experts: further shared layers around a part of a map", "[layer][lora]") {
    using with_more = with_lora_experts<3, moving2, route::top_k<2>, shared<linear<7, 5>>>;
    using net = adapted_parts<linear<7, 9>, std::integer_sequence<index_t, 4, 5>, as_frozen, with_more>;
    const auto rows = batch::ragged({4, 0, 3});
    gradients<net>(rows);
    auto w = random_params<net, double>(3);
    w.write("2.b", std::vector<double>(30, 0.0));
    params<linear<7, 9>, double> sum;
    auto map = w.read("0.0.weight");
    const auto more = w.read("2.1.weight");
    for (std::size_t i = 0; i < 7; ++i) {
        for (std::size_t o = 0; o < 5; ++o) map[i * 9 + 4 + o] += more[i * 5 + o];
    }
    sum.write("weight", map);
    const auto x = normal_numbers<double>(49, 1);
    tape<net, double> t;
    tape<linear<7, 9>, double> u;
    CHECK(distance(run_forward(w, x, rows, t), run_forward(sum, x, rows, u)) < 1e-13);
}

TEST_CASE(
    "lora_experts: router and base see what dropout hides from the experts, and inference hides nothing",
    "[layer][lora]") {
    const auto check = [](auto wet_type, auto dry_type) {
        using wet = typename decltype(wet_type)::type;
        using dry = typename decltype(dry_type)::type;
        auto w = random_params<wet, double>(4);
        params<dry, double> v;
        copy_matching(w, v);
        const auto x = normal_numbers<double>(7 * 40, 1);
        const auto rows = batch::equal(1, 40);
        tape<wet, double> t;
        tape<dry, double> u;
        CHECK(run_forward(w, x, rows, t) != run_forward(v, x, rows, u));
        CHECK(same_choices(t.routing()[0], u.routing()[0]));
        // Without dropout training and inference are one function.
        const auto y = run_forward(v, x, rows, u);
        CHECK(run_infer(v, x, rows, u) == y);
        CHECK(run_infer(w, x, rows, t) == y);
        w.write("b", std::vector<double>(w.read("b").size(), 0.0));
        v.write("b", w.read("b"));
        CHECK(run_forward(w, x, rows, t) == run_forward(v, x, rows, u));
    };
    const auto both = [&]<class... Policies>(std::type_identity<void (*)(Policies...)>) {
        check(std::type_identity<lora_experts<base, 4, dropping, Policies...>>{},
              std::type_identity<lora_experts<base, 4, rank2, Policies...>>{});
    };
    both(std::type_identity<void (*)(route::top_k<2>)>{});
    both(std::type_identity<void (*)(route::all, gate::softmax)>{});
    both(std::type_identity<void (*)(route::entropy_broadcast<>, gate::softmax)>{});
    both(std::type_identity<void (*)(route::top_p<coefficient{0.8}>, gate::softmax)>{});
}
