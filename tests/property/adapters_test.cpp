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
