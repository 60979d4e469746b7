// What the definitions of the adapter family promise whatever the numbers are.

#include <cmath>
#include <string>
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

namespace {

using base = linear<7, 9>;
constexpr adapter_spec rank2{.rank = 2, .alpha = 4}, rank6{.rank = 6, .alpha = 9};
constexpr coefficient quarter{0.25};
const auto rows = batch::ragged({4, 0, 7, 1});

std::vector<double> some_x(std::uint64_t seed) { return normal_numbers<double>(12 * 7, seed); }

}  // namespace

TEST_CASE("smora: a bias moves by the ranks below and above the mean count", "[property][lora]") {
    using net = lora<base, rank6, rank_gate::sigmoid_top_k<2, 1, quarter>>;
    for (std::uint64_t seed = 1; seed < 6; ++seed) {
        auto w = random_params<net, double>(seed);
        w.write("select_bias", std::vector<double>(6, 0.0));
        tape<net, double> t;
        run_forward(w, some_x(seed), rows, t);
        double under = 0, over = 0, sum = 0, chosen = 0;
        for (index_t i = 0; i < 6; ++i) {
            const auto count = static_cast<double>(t.routing()[0].counts[i]);
            under += count < 4 ? 1 : 0;  // 12 tokens, 2 of 6 ranks each
            over += count > 4 ? 1 : 0;
            chosen += count;
        }
        CHECK(chosen == 24);
        update_selection_bias(w, t);
        for (const double b : w.read("select_bias")) sum += b;
        CHECK(sum == Approx(0.25 * (under - over)).margin(1e-15));
    }
}

TEST_CASE("flylora: as many choices as tokens times k, and training leaves A alone", "[property][lora]") {
    using net = lora<base, rank6, rank_gate::strongest<2>>;
    auto w = random_params<net, double>(3);
    const auto a = w.read("a"), b = w.read("b");
    tape<net, double> t;
    params<net, double> g;
    adamw<net, double> adam({.rate = 0.1});
    for (std::uint64_t step = 0; step < 4; ++step) {
        run_forward(w, some_x(step), rows, t);
        index_t sum = 0;
        for (index_t i = 0; i < 6; ++i) sum += t.routing()[0].counts[i];
        CHECK(sum == 2 * 12);
        run_backward(w, normal_numbers<double>(12 * 9, step + 7), t, g);
        adam.step(w, g);
        update_selection_bias(w, t);
    }
    CHECK(w.read("a") == a);
    CHECK(w.read("b") != b);
}

TEST_CASE("moram: weights of a token sum to one; a low temperature leaves one rank", "[property][lora]") {
    const auto check = [](auto type, bool one) {
        using net = typename decltype(type)::type;
        tape<net, double> t;
        run_forward(random_params<net, double>(4), some_x(2), rows, t);
        const routing_record& r = t.routing()[0];
        for (index_t token = 0; token < 12; ++token) {
            double sum = 0;
            for (index_t j = 0; j < r.slots; ++j) sum += r.gate(token, j);
            CHECK(sum == Approx(1));
            if (one) CHECK(r.gate(token, 0) > 1 - 1e-9);
        }
    };
    check(std::type_identity<lora<base, rank6, rank_gate::self_activated<3, quarter>>>{}, false);
    check(std::type_identity<lora<base, rank6, rank_gate::self_activated<3, coefficient{1e-6}>>>{}, true);
}

TEST_CASE("llava-mole: equal tokens have one expert; scaled logits and one expert alone",
          "[property][lora]") {
    using net = lora_experts<base, 4, rank2, route::top_k<1>, gate::one>;
    auto w = random_params<net, double>(5);
    auto x = some_x(3);
    for (std::size_t i = 0; i < 7; ++i) x[9 * 7 + i] = x[7 + i];
    tape<net, double> t;
    const auto y = run_forward(w, x, rows, t);
    CHECK(t.routing()[0].chosen[1] == t.routing()[0].chosen[9]);
    // A monotone change of the logits changes nothing.
    auto router = w.read("router");
    for (double& v : router) v *= 3.5;
    w.write("router", router);
    CHECK(run_forward(w, x, rows, t) == y);
    // One expert is LoRA.
    using one = lora_experts<base, 1, rank2, route::top_k<1>, gate::one>;
    const auto v = random_params<one, double>(6);
    params<lora<base, rank2>, double> plain;
    copy_matching(v, plain);
    tape<one, double> u;
    tape<lora<base, rank2>, double> s;
    CHECK(distance(run_forward(v, x, rows, u), run_forward(plain, x, rows, s)) < 1e-13);
}

TEST_CASE("dynmole: weights sum to at most one, and enough experts are kept", "[property][lora]") {
    using net = lora_experts<base, 5, rank2, route::entropy_broadcast<>, gate::softmax>;
    bool all = false, some = false;
    for (std::uint64_t seed = 1; seed < 6; ++seed) {
        auto w = random_params<net, double>(seed);
        auto router = w.read("router");
        for (double& v : router) v *= 0.5 * static_cast<double>(seed);
        w.write("router", router);
        tape<net, double> t;
        run_forward(w, some_x(seed), rows, t);
        const routing_record& r = t.routing()[0];
        for (index_t token = 0; token < 12; ++token) {
            double sum = 0;
            index_t active = 0;
            for (index_t j = 0; j < r.slots; ++j) {
                if (r.chosen[token * r.slots + j] < 0) continue;
                ++active;
                sum += r.gate(token, j);
            }
            CHECK(sum <= 1 + 1e-12);
            CHECK(active >= 2);
            all = all || active == 5;
            some = some || active < 5;
        }
    }
    CHECK((all && some));
}

TEST_CASE("lora: a merge changes a map by a matrix of the adapter's rank", "[property][lora]") {
    using net = lora<base, rank2>;
    const auto w = random_params<net, double>(3);
    params<base, double> plain;
    copy_matching(w, plain);
    auto d = plain.read("weight");
    CHECK(merge(w, plain) == 1);
    const auto merged = plain.read("weight");
    double size = 0;
    for (std::size_t i = 0; i < d.size(); ++i) {
        d[i] = merged[i] - d[i];
        size = std::max(size, std::abs(d[i]));
    }
    CHECK(size > 0.1);
    // Every minor of three neighbouring rows and columns vanishes.
    const auto at = [&](std::size_t i, std::size_t j) { return d[i * 9 + j]; };
    for (std::size_t i = 0; i + 2 < 7; ++i) {
        for (std::size_t j = 0; j + 2 < 9; ++j) {
            const double minor =
                at(i, j) * (at(i + 1, j + 1) * at(i + 2, j + 2) - at(i + 1, j + 2) * at(i + 2, j + 1)) -
                at(i, j + 1) * (at(i + 1, j) * at(i + 2, j + 2) - at(i + 1, j + 2) * at(i + 2, j)) +
                at(i, j + 2) * (at(i + 1, j) * at(i + 2, j + 1) - at(i + 1, j + 1) * at(i + 2, j));
            CHECK(std::abs(minor) < 1e-12 * std::max(1.0, size * size * size));
        }
    }
}

TEST_CASE("mixlora: one choice has weight one, updates that are zero change nothing", "[property][lora]") {
    constexpr mixlora_spec spec{.adapter = rank2};
    using net = mixlora<7, 5, activation::silu, 4, spec, route::top_k<1>>;
    auto w = random_params<net, double>(8);
    tape<net, double> t;
    run_forward(w, some_x(4), rows, t);
    for (index_t token = 0; token < 12; ++token) CHECK(t.routing()[0].gate(token, 0) == 1.0);
    for (const std::string name : {"gate_b", "up_b", "down_b"})
        w.write(name, std::vector<double>(w.read(name).size(), 0.0));
    const auto y = run_forward(w, some_x(4), rows, t);
    w.write("router", normal_numbers<double>(28, 77));
    CHECK(run_forward(w, some_x(4), rows, t) == y);
}

TEST_CASE("smora: weights do not know the size of the scores", "[property][lora]") {
    using net = lora<base, rank6, rank_gate::sigmoid_top_k<3>>;
    auto w = random_params<net, double>(4);
    // Without a router the scores are 1/2 plus the bias; all of them times a factor give the same.
    w.write("router", std::vector<double>(42, 0.0));
    const std::vector<double> bias{0.1, 0.4, -0.2, 0.3, 0.0, 0.25};
    w.write("select_bias", bias);
    tape<net, double> t;
    const auto y = run_forward(w, some_x(1), rows, t);
    for (const double factor : {0.25, 3.0}) {
        std::vector<double> scaled;
        for (const double b : bias) scaled.push_back(factor * (0.5 + b) - 0.5);
        w.write("select_bias", scaled);
        CHECK(distance(run_forward(w, some_x(1), rows, t), y) < 1e-14);
    }
}

TEST_CASE("flylora: with all ranks chosen it is lora with a frozen A, forward and backward",
          "[property][lora]") {
    using all = lora<base, rank6, rank_gate::strongest<6>>;
    using plain = lora<base, rank6>;
    const auto w = random_params<all, double>(4);
    params<plain, double> v;
    copy_matching(w, v);
    tape<all, double> t;
    tape<plain, double> u;
    params<all, double> g;
    params<plain, double> h;
    const auto dy = normal_numbers<double>(12 * 9, 2);
    CHECK(distance(run_forward(w, some_x(1), rows, t), run_forward(v, some_x(1), rows, u)) < 1e-14);
    CHECK(distance(run_backward(w, dy, t, g), run_backward(v, dy, u, h)) < 1e-14);
    CHECK(distance(g.read("b"), h.read("b")) < 1e-14);
}

namespace {

// The rows of a factor whose rank nobody chose.
template <class Net>
index_t rows_without_gradient(const params<Net, double>& g, const tape<Net, double>& t,
                              const std::string& factor, std::size_t width) {
    const auto values = g.read(factor);
    index_t found = 0;
    for (std::size_t r = 0; r * width < values.size(); ++r) {
        if (t.routing()[0].counts[r] > 0) continue;
        ++found;
        for (std::size_t i = 0; i < width; ++i) CHECK(values[r * width + i] == 0.0);
    }
    return found;
}

constexpr adapter_spec rank32{.rank = 32, .alpha = 9}, rank4{.rank = 4, .alpha = 9};

}  // namespace

TEST_CASE("rank gates: a rank that nobody chose has no gradient at all", "[property][lora]") {
    const auto few = batch::equal(1, 3);
    const auto x = normal_numbers<double>(21, 1), dy = normal_numbers<double>(27, 2);
    const auto check = [&](auto layer, bool teaches) {
        using net = decltype(layer);
        const auto w = random_params<net, double>(4);
        tape<net, double> t;
        params<net, double> g;
        run_forward(w, x, few, t);
        run_backward(w, dy, t, g);
        CHECK(rows_without_gradient(g, t, "b", 9) > 0);
        if constexpr (net::gate_type::trains_down) {
            if (!teaches) CHECK(rows_without_gradient(g, t, "a", 7) > 0);
        }
        if (!teaches) return;
        // The norm of all activations is in every weight: A learns everywhere.
        const auto a = g.read("a");
        for (std::size_t r = 0; r < 32; ++r) CHECK(a[r * 7] != 0.0);
    };
    check(lora<base, rank32, rank_gate::sigmoid_top_k<2>>{}, false);
    check(lora<base, rank32, rank_gate::strongest<2>>{}, false);
    check(lora<base, rank32, rank_gate::self_activated<2, coefficient{0.5}>>{}, true);
}

TEST_CASE("dynmole: the whole of the probability keeps all experts, and so does a threshold of nothing",
          "[property][lora]") {
    using every = lora_experts<base, 4, rank2, route::all, gate::softmax>;
    using whole =
        lora_experts<base, 4, rank2,
                     route::entropy_broadcast<entropy::tsallis<>, coefficient{1.0}, coefficient{1.5}>,
                     gate::softmax>;
    using undecided =
        lora_experts<base, 4, rank2,
                     route::entropy_broadcast<entropy::tsallis<>, coefficient{0.0}, coefficient{0.5}>,
                     gate::softmax>;
    const auto w = random_params<every, double>(4);
    params<whole, double> v;
    params<undecided, double> u;
    copy_matching(w, v);
    copy_matching(w, u);
    tape<every, double> t;
    tape<whole, double> tv;
    tape<undecided, double> tu;
    const auto y = run_forward(w, some_x(1), rows, t);
    CHECK(distance(run_forward(v, some_x(1), rows, tv), y) < 1e-14);
    CHECK(distance(run_forward(u, some_x(1), rows, tu), y) < 1e-14);
}

TEST_CASE("loramoe: equal experts are one adapter", "[property][lora]") {
    using net = lora_experts<base, 3, rank2, route::all, gate::softmax>;
    auto w = random_params<net, double>(4);
    const auto a = normal_numbers<double>(14, 5), b = normal_numbers<double>(18, 6);
    std::vector<double> as, bs;
    for (int e = 0; e < 3; ++e) {
        as.insert(as.end(), a.begin(), a.end());
        bs.insert(bs.end(), b.begin(), b.end());
    }
    w.write("a", as);
    w.write("b", bs);
    params<lora<base, rank2>, double> one;
    one.write("0.0.weight", w.read("0.0.weight"));
    one.write("a", a);
    one.write("b", b);
    tape<net, double> t;
    tape<lora<base, rank2>, double> u;
    CHECK(distance(run_forward(w, some_x(1), rows, t), run_forward(one, some_x(1), rows, u)) < 1e-13);
}

TEST_CASE("lora-mixer: the entropy lies between nothing and that of an even choice", "[property][lora]") {
    using loss = balance::specialisation<2, coefficient{0.0}, coefficient{1.0}>;
    using net = lora_experts<base, 5, rank4, route::all, gate::softmax, loss>;
    auto w = random_params<net, double>(4);
    tape<net, double> t;
    t.set_aux_scale(1);
    const auto router = w.read("router");
    for (const double factor : {0.0, 0.1, 1.0, 30.0}) {
        std::vector<double> scaled;
        for (const double r : router) scaled.push_back(factor * r);
        w.write("router", scaled);
        run_forward(w, some_x(1), rows, t);
        CHECK(t.aux_loss() >= 0);
        CHECK(t.aux_loss() < std::log(5.0) + 1e-12);
        if (factor == 0) CHECK(t.aux_loss() == Approx(std::log(5.0)));
    }
}
