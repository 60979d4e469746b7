#include <mox/layer/mixlora.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/gradients.hpp"
#include "../support/layers.hpp"

using namespace mox;
using namespace mox_test;

namespace {

constexpr mixlora_spec every{.adapter = {.rank = 2, .alpha = 4}},
    gate_and_down{.adapter = {.rank = 3, .alpha = 4}, .up = false},
    down_only{.adapter = {.rank = 3, .alpha = 4}, .gate = false, .up = false};
constexpr mixlora_spec dropping{.adapter = {.rank = 2, .alpha = 4, .dropout = 0.3}};
using base = swiglu<9, 7>;
using net = mixlora<9, 7, activation::silu, 4, every, route::top_k<2>, balance::load<>>;

template <mixlora_spec Spec>
struct constant_spec {
    static constexpr mixlora_spec value = Spec;
};

using numbers = std::vector<double>;

// The layer by plain loops, experts one after the other, from a list of tensors by name. The factors of
// magnitudes may be given: they are constants in backward.
struct by_loops {
    std::size_t D, H, E, rank, k = 2;
    double s;
    mixlora_spec spec;
    double (*act)(double);
    std::map<std::string, numbers> w;

    std::size_t front() const { return spec.gated ? 2 * H : H; }

    // Weight (in x out) of expert e: the base's columns from `first` on and the update.
    numbers map(const std::string& weight, std::size_t in, std::size_t columns, std::size_t first,
                std::size_t out, const std::string& name, bool updated, std::size_t e) const {
        numbers v(in * out);
        for (std::size_t i = 0; i < in; ++i) {
            for (std::size_t o = 0; o < out; ++o) {
                v[i * out + o] = w.at(weight)[i * columns + first + o];
                for (std::size_t r = e * rank; updated && r < (e + 1) * rank; ++r)
                    v[i * out + o] += s * w.at(name + "_a")[r * in + i] * w.at(name + "_b")[r * out + o];
            }
        }
        return v;
    }
    numbers norms(const std::string& name, std::size_t e) const {
        const bool down = name == "down";
        const std::size_t in = down ? H : D, out = down ? D : H;
        const numbers v = down ? map("down.0.weight", H, D, 0, D, name, true, e)
                               : map(spec.gated ? "gate_up.0.weight" : "up.0.weight", D, front(),
                                     name == "up" ? front() - H : 0, H, name, true, e);
        numbers n(out);
        for (std::size_t o = 0; o < out; ++o) {
            for (std::size_t i = 0; i < in; ++i) n[o] += v[i * out + o] * v[i * out + o];
            n[o] = std::sqrt(n[o]);
        }
        return n;
    }
    // y(out) = c (x W + b)
    numbers apply(const numbers& x, const std::string& name, bool updated, std::size_t e,
                  const std::map<std::string, numbers>& fixed) const {
        const bool down = name == "down";
        const std::size_t out = down ? D : H, first = name == "up" ? front() - H : 0;
        const std::string weight = down         ? "down.0.weight"
                                   : spec.gated ? "gate_up.0.weight"
                                                : "up.0.weight",
                          bias = down         ? "down_bias"
                                 : spec.gated ? "gate_up_bias"
                                              : "up_bias";
        const numbers v = map(weight, x.size(), down ? D : front(), first, out, name, updated, e);
        numbers y(out);
        for (std::size_t o = 0; o < out; ++o) {
            for (std::size_t i = 0; i < x.size(); ++i) y[o] += x[i] * v[i * out + o];
            if (spec.biases) y[o] += w.at(bias)[first + o];
            if (spec.magnitudes && updated)
                y[o] *= w.at(name + "_magnitude")[e * out + o] / fixed.at(name + std::to_string(e))[o];
        }
        return y;
    }
    std::map<std::string, numbers> all_norms() const {
        std::map<std::string, numbers> all;
        for (std::size_t e = 0; e < E; ++e) {
            if (spec.gated && spec.gate) all["gate" + std::to_string(e)] = norms("gate", e);
            if (spec.up) all["up" + std::to_string(e)] = norms("up", e);
            if (spec.down) all["down" + std::to_string(e)] = norms("down", e);
        }
        return all;
    }
    // renormalised: gates of the k largest sum to one; else they are probabilities.
    numbers forward(const numbers& x, const std::map<std::string, numbers>& fixed, bool renormalised) const {
        numbers y;
        for (std::size_t t = 0; t < x.size() / D; ++t) {
            const numbers row(x.begin() + static_cast<std::ptrdiff_t>(t * D),
                              x.begin() + static_cast<std::ptrdiff_t>((t + 1) * D));
            std::vector<std::pair<double, std::size_t>> p;
            double total = 0, chosen = 0;
            for (std::size_t e = 0; e < E; ++e) {
                double l = 0;
                for (std::size_t i = 0; i < D; ++i) l += row[i] * w.at("router")[i * E + e];
                p.push_back({-std::exp(l), e});
                total += std::exp(l);
            }
            std::sort(p.begin(), p.end());
            for (std::size_t j = 0; j < k; ++j) chosen -= p[j].first;
            numbers out(D);
            for (std::size_t j = 0; j < k; ++j) {
                const std::size_t e = p[j].second;
                numbers v =
                    apply(row, spec.gated ? "gate" : "up", spec.gated ? spec.gate : spec.up, e, fixed);
                for (double& a : v) a = act(a);
                if (spec.gated) {
                    const numbers c = apply(row, "up", spec.up, e, fixed);
                    for (std::size_t h = 0; h < H; ++h) v[h] *= c[h];
                }
                const numbers o = apply(v, "down", spec.down, e, fixed);
                for (std::size_t i = 0; i < D; ++i)
                    out[i] += -p[j].first / (renormalised ? chosen : total) * o[i];
            }
            y.insert(y.end(), out.begin(), out.end());
        }
        return y;
    }
};

double silu_of(double a) { return a / (1 + std::exp(-a)); }

// Output and every gradient of Net against differences of the loops, norms held where they are.
template <class Net>
void against_loops(mixlora_spec spec, bool renormalised) {
    by_loops loops{9,    7,       3, static_cast<std::size_t>(spec.adapter.rank), 2, spec.adapter.scale(),
                   spec, silu_of, {}};
    const auto w = random_params<Net, double>(8);
    for (const auto& info : params<Net, double>::tensors()) loops.w[info.path] = w.read(info);
    auto x = normal_numbers<double>(5 * 9, 1);
    const auto dy = normal_numbers<double>(5 * 9, 2);
    const auto fixed = loops.all_norms();
    tape<Net, double> t;
    params<Net, double> g;
    CHECK(distance(run_forward(w, x, batch::ragged({2, 0, 3}), t), loops.forward(x, fixed, renormalised)) <
          1e-12);
    const auto dx = run_backward(w, dy, t, g);
    const auto slope = [&](double& v) {
        const double h = 1e-5, before = v;
        double loss[2] = {0, 0};
        for (const int side : {0, 1}) {
            v = side == 0 ? before - h : before + h;
            const auto y = loops.forward(x, fixed, renormalised);
            for (std::size_t i = 0; i < y.size(); ++i) loss[side] += y[i] * dy[i];
        }
        v = before;
        return (loss[1] - loss[0]) / (2 * h);
    };
    for (std::size_t i = 0; i < x.size(); i += 2)
        CHECK(slope(x[i]) == Approx(dx[i]).epsilon(1e-6).margin(1e-8));
    for (const auto& info : params<Net, double>::tensors()) {
        if (!info.spec.trained) continue;
        CAPTURE(info.path);
        const auto own = g.read(info);
        for (std::size_t i = 0; i < own.size(); i += 3)
            CHECK(slope(loops.w[info.path][i]) == Approx(own[i]).epsilon(1e-6).margin(1e-8));
    }
}

}  // namespace

TEST_CASE("mixlora: magnitudes and biases against plain loops, their gradients too", "[layer][lora]") {
    constexpr adapter_spec rank2{.rank = 2, .alpha = 4};
    using activation::silu;
    const auto check = [](auto spec_of) {
        constexpr mixlora_spec spec = decltype(spec_of)::value;
        against_loops<mixlora<9, 7, silu, 3, spec, route::top_k<2>>>(spec, true);
        against_loops<mixlora<9, 7, silu, 3, spec, route::top_k<2>, gate::softmax>>(spec, false);
    };
    check(constant_spec<mixlora_spec{.adapter = rank2}>{});
    check(constant_spec<mixlora_spec{.adapter = rank2, .magnitudes = true}>{});
    check(constant_spec<mixlora_spec{.adapter = rank2, .magnitudes = true, .biases = true}>{});
    check(constant_spec<mixlora_spec{.adapter = rank2, .biases = true}>{});
    check(constant_spec<mixlora_spec{.adapter = rank2, .up = false, .magnitudes = true}>{});
    check(constant_spec<mixlora_spec{
              .adapter = rank2, .gate = false, .down = false, .magnitudes = true, .biases = true}>{});
    check(constant_spec<mixlora_spec{.adapter = rank2, .gated = false, .magnitudes = true}>{});
    check(constant_spec<mixlora_spec{.adapter = rank2, .gated = false, .biases = true}>{});
    check(constant_spec<mixlora_spec{
              .adapter = rank2, .up = false, .gated = false, .magnitudes = true, .biases = true}>{});
}

TEST_CASE("mixlora: starts as the network it took over, with magnitudes and biases", "[layer][lora]") {
    constexpr mixlora_spec scaled{.adapter = {.rank = 2, .alpha = 4}, .magnitudes = true},
        two{.adapter = {.rank = 2, .alpha = 4}, .gated = false, .magnitudes = true, .biases = true},
        plain{.adapter = {.rank = 2, .alpha = 4}, .gated = false, .biases = true};
    const auto check = [](auto from, auto to) {
        using F = typename decltype(from)::type;
        using N = typename decltype(to)::type;
        const auto trained = random_params<F, double>(3);
        params<N, double> w(init::standard, 4);
        const auto report = copy_matching(trained, w);
        CHECK(report.unused.empty());
        (void)start_dora(w);
        const auto x = normal_numbers<double>(81, 1);
        tape<F, double> t;
        tape<N, double> u;
        const auto rows = batch::equal(1, 9);
        CHECK(distance(run_forward(w, x, rows, u), run_forward(trained, x, rows, t)) < 1e-13);
        CHECK(distance(run_infer(w, x, rows, u), run_forward(trained, x, rows, t)) < 1e-13);
    };
    using activation::silu;
    using biased = std::type_identity<mlp<9, 7, silu, bias::with>>;
    check(std::type_identity<base>{}, std::type_identity<mixlora<9, 7, silu, 4, scaled, route::top_k<2>>>{});
    check(biased{}, std::type_identity<mixlora<9, 7, silu, 4, two, route::top_k<2>>>{});
    check(biased{}, std::type_identity<mixlora<9, 7, silu, 4, plain, route::top_k<2>>>{});
    params<mixlora<9, 7, silu, 4, scaled, route::top_k<2>>, double> w(init::standard, 4);
    w.write("gate_up.0.weight", normal_numbers<double>(9 * 14, 1));
    w.write("down.0.weight", normal_numbers<double>(9 * 7, 2));
    CHECK(start_dora(w) == 1);
    // Twice all magnitudes of the map behind: twice the output.
    auto m = w.read("down_magnitude");
    const auto x = normal_numbers<double>(45, 1);
    tape<mixlora<9, 7, silu, 4, scaled, route::top_k<2>>, double> t;
    auto y = run_forward(w, x, batch::equal(1, 5), t);
    for (double& v : m) v *= 2;
    for (double& v : y) v *= 2;
    w.write("down_magnitude", m);
    CHECK(distance(run_forward(w, x, batch::equal(1, 5), t), y) < 1e-13);
}

TEST_CASE("mixlora: magnitudes and biases in float, with dropout, threads, and no token", "[layer][lora]") {
    constexpr mixlora_spec all{
        .adapter = {.rank = 2, .alpha = 4, .dropout = 0.3}, .magnitudes = true, .biases = true},
        dry{.adapter = {.rank = 2, .alpha = 4}, .magnitudes = true, .biases = true};
    using small = mixlora<9, 7, activation::silu, 4, dry, route::top_k<2>, balance::load<>>;
    CHECK(float_distance<small>(batch::ragged({4, 1, 9}), 5) < 1e-4);
    CHECK(same_for_threads<mixlora<70, 90, activation::silu, 5, all, route::top_k<2>>>(
        batch::ragged({300, 200}), 0.2));
    const auto nothing = step_bits<small>({}, batch::equal(0, 0));
    CHECK(std::all_of(nothing.begin(), nothing.end(), [](float v) { return v == 0.0f; }));
}

TEST_CASE("mixlora: gradients, with updates on all maps and on some", "[layer][lora]") {
    const auto rows = batch::ragged({3, 0, 5, 3});
    gradients<net>(rows);
    gradients<mixlora<9, 7, activation::gelu, 3, gate_and_down, route::top_k<2>, gate::softmax>>(rows);
    gradients<mixlora<9, 7, activation::gelu, 3, down_only, route::all, gate::softmax>>(rows);
    gradients<mixlora<9, 7, activation::silu, 3, every, route::top_k<2>, null_experts<1>>>(rows);
}

TEST_CASE("mixlora: dropout falls on what the updates read, in training only", "[layer][lora]") {
    using wet = mixlora<9, 7, activation::silu, 4, dropping, route::top_k<2>>;
    using dry = mixlora<9, 7, activation::silu, 4, every, route::top_k<2>>;
    gradients<wet>(batch::ragged({3, 0, 5, 3}));
    gradients<stack<wet, wet>>(batch::ragged({4, 2}));
    auto w = random_params<wet, double>(4);
    params<dry, double> v;
    copy_matching(w, v);
    const auto x = normal_numbers<double>(9 * 40, 1);
    const auto rows = batch::equal(1, 40);
    tape<wet, double> t;
    tape<dry, double> u;
    t.set_step(5);
    const auto first = run_forward(w, x, rows, t), second = run_forward(w, x, rows, t);
    CHECK(first != second);
    t.set_step(5);
    CHECK(run_forward(w, x, rows, t) == first);
    CHECK(run_infer(w, x, rows, t) == run_infer(v, x, rows, u));
    // The router sees everything.
    t.set_step(5);
    run_forward(w, x, rows, t);
    run_forward(v, x, rows, u);
    CHECK(same_choices(t.routing()[0], u.routing()[0]));
    // The base does, and each map drops.
    for (const char* name : {"gate_b", "up_b", "down_b"}) {
        auto one = w;
        auto plain = v;
        for (const char* other : {"gate_b", "up_b", "down_b"}) {
            if (std::string_view(name) == other) continue;
            one.write(other, std::vector<double>(one.read(other).size(), 0.0));
            plain.write(other, std::vector<double>(one.read(other).size(), 0.0));
        }
        t.set_step(5);
        CHECK(run_forward(one, x, rows, t) != run_forward(plain, x, rows, u));
        one.write(name, std::vector<double>(one.read(name).size(), 0.0));
        plain.write(name, std::vector<double>(one.read(name).size(), 0.0));
        CHECK(run_forward(one, x, rows, t) == run_forward(plain, x, rows, u));
    }
    CHECK(same_for_threads<mixlora<70, 90, activation::silu, 5, dropping, route::top_k<2>>>(
        batch::ragged({300, 200}), 0.2));
}

TEST_CASE("mixlora: each map has a mask of its own", "[layer][lora]") {
    // One feature and no base in front: a token's output is zero where its gate or its up update is dropped.
    constexpr mixlora_spec half{.adapter = {.rank = 2, .alpha = 4, .dropout = 0.5}};
    using one = mixlora<9, 7, activation::silu, 1, half, route::top_k<1>>;
    auto w = random_params<one, double>(4);
    w.write("gate_up.0.weight", std::vector<double>(w.read("gate_up.0.weight").size(), 0.0));
    w.write("down_b", std::vector<double>(w.read("down_b").size(), 0.0));
    const int kept = outputs_of_first_features(w, 400);
    // A quarter; one mask for both would keep half. Five standard deviations are 43.
    CHECK(kept > 100 - 43);
    CHECK(kept < 100 + 43);
}

TEST_CASE("mixlora: at the start the task teaches B alone; an expert without tokens learns nothing",
          "[layer][lora]") {
    auto w = random_params<net, double>(3);
    // Nobody chooses expert 3: its logit is far below the others for positive inputs.
    auto router = w.read("router");
    for (std::size_t i = 0; i < 9; ++i) router[4 * i + 3] = -50;
    w.write("router", router);
    std::vector<double> x = normal_numbers<double>(9 * 12, 1);
    for (double& v : x) v = std::abs(v);
    const auto dy = normal_numbers<double>(9 * 12, 2);
    tape<net, double> t;
    t.set_aux_scale(0);
    params<net, double> g;
    run_forward(w, x, batch::ragged({5, 7}), t);
    CHECK(t.routing()[0].counts[3] == 0);
    run_backward(w, dy, t, g);
    for (const char* name : {"gate_a", "gate_b", "up_a", "up_b", "down_a", "down_b"}) {
        INFO(name);
        const auto v = g.read(name);
        const auto own = v.begin() + static_cast<std::ptrdiff_t>(v.size() / 4 * 3);
        CHECK(std::all_of(own, v.end(), [](double d) { return d == 0.0; }));
        CHECK(std::any_of(v.begin(), own, [](double d) { return d != 0.0; }));
    }
    for (const char* name : {"gate_b", "up_b", "down_b"})
        w.write(name, std::vector<double>(w.read(name).size(), 0.0));
    run_forward(w, x, batch::ragged({5, 7}), t);
    run_backward(w, dy, t, g);
    for (const char* name : {"gate_a", "up_a", "down_a"}) {
        for (const double v : g.read(name)) CHECK(v == 0.0);
    }
    // All experts say the same and the gates' sum is one: nothing but rounding.
    for (const double v : g.read("router")) CHECK(std::abs(v) < 1e-13);
}

TEST_CASE("mixlora: what it costs is told", "[layer][lora]") {
    // 4dh for gate and up once, 2hd for down once, k updates of three maps, and the router.
    constexpr double d = 9, h = 7, k = 2, r = 2;
    CHECK(net::flops(1) == 2 * d * 4 + 4 * d * h + 2 * h * d + k * 3 * 2 * r * (d + h));
}

TEST_CASE("mixlora: starts as the network it took over, whatever the router", "[layer][lora]") {
    const params<base, double> trained(init::standard, 3);
    params<net, double> w(init::standard, 4);
    const auto report = copy_matching(trained, w);
    CHECK(report.copied == 2);
    CHECK(report.unused.empty());
    const auto x = normal_numbers<double>(81, 1);
    tape<base, double> t;
    tape<net, double> u;
    const auto rows = batch::equal(1, 9);
    CHECK(distance(run_forward(w, x, rows, u), run_forward(trained, x, rows, t)) < 1e-14);
}

TEST_CASE("mixlora: one expert is the network with an adapter on each map", "[layer][lora]") {
    using one = mixlora<9, 7, activation::silu, 1, every, route::top_k<1>>;
    const auto w = random_params<one, double>(5);
    // The first map of the other layer has one adapter for both halves: ranks of the gate, then of up.
    constexpr adapter_spec rank4{.rank = 4, .alpha = 8};
    using wide = stack<adapted_ffn<9, 7, activation::silu, with_lora<rank4>>>;
    params<wide, double> z;
    z.write("0.gate_up.0.0.weight", w.read("gate_up.0.weight"));
    z.write("0.down.0.0.weight", w.read("down.0.weight"));
    auto a = w.read("gate_a");
    const auto up_a = w.read("up_a"), gate_b = w.read("gate_b"), up_b = w.read("up_b");
    a.insert(a.end(), up_a.begin(), up_a.end());
    z.write("0.gate_up.a", a);
    std::vector<double> b(4 * 14, 0.0);
    for (std::size_t r = 0; r < 2; ++r) {
        for (std::size_t j = 0; j < 7; ++j) {
            b[r * 14 + j] = gate_b[r * 7 + j];
            b[(r + 2) * 14 + 7 + j] = up_b[r * 7 + j];
        }
    }
    z.write("0.gate_up.b", b);
    auto down_a = w.read("down_a"), down_b = w.read("down_b");
    down_a.resize(28, 0.0);
    down_b.resize(36, 0.0);
    z.write("0.down.a", down_a);
    z.write("0.down.b", down_b);
    const auto x = normal_numbers<double>(81, 1);
    tape<one, double> t;
    tape<wide, double> u;
    const auto rows = batch::equal(1, 9);
    CHECK(distance(run_forward(w, x, rows, t), run_forward(z, x, rows, u)) < 1e-13);
}

TEST_CASE("mixlora: a network of two maps", "[layer][lora]") {
    constexpr mixlora_spec two{.adapter = {.rank = 2, .alpha = 4}, .gated = false},
        up_only{.adapter = {.rank = 3, .alpha = 4, .dropout = 0.3}, .down = false, .gated = false};
    using plain = mixlora<9, 7, activation::relu, 3, two, route::top_k<2>>;
    static_assert(plain::parameters.size() == 1 + 4, "router, and factors of up and down");
    gradients<mixlora<9, 7, activation::silu, 4, two, route::top_k<2>, balance::load<>>>(
        batch::ragged({3, 0, 5}));
    gradients<mixlora<9, 7, activation::silu, 4, up_only, route::top_k<2>>>(batch::ragged({3, 0, 5}));
    CHECK(same_for_threads<mixlora<70, 90, activation::silu, 5, two, route::top_k<2>>>(
        batch::ragged({300, 200}), 0.2));

    // At the start the network it took over.
    const auto from = random_params<mlp<9, 7, activation::relu>, double>(2);
    params<plain, double> start{init::standard, 3};
    (void)copy_matching(from, start);
    const auto x = normal_numbers<double>(5 * 9, 1);
    tape<plain, double> t;
    tape<mlp<9, 7, activation::relu>, double> u;
    CHECK(distance(run_forward(start, x, batch::equal(1, 5), t),
                   run_forward(from, x, batch::equal(1, 5), u)) < 1e-13);

    // And by plain loops.
    const auto w = random_params<plain, double>(4);
    const auto y = run_forward(w, x, batch::equal(1, 5), t);
    const auto up = w.read("up.0.weight"), down = w.read("down.0.weight"), ua = w.read("up_a"),
               ub = w.read("up_b"), da = w.read("down_a"), db = w.read("down_b");
    std::vector<double> expected(5 * 9, 0.0);
    for (std::size_t token = 0; token < 5; ++token) {
        for (index_t j = 0; j < 2; ++j) {
            const routing_record& r = t.routing()[0];
            const auto first =
                2 * static_cast<std::size_t>(r.chosen[2 * token + static_cast<std::size_t>(j)]);
            std::vector<double> v(7), o(9);
            for (std::size_t h = 0; h < 7; ++h) {
                for (std::size_t i = 0; i < 9; ++i) {
                    double weight = up[i * 7 + h];
                    for (std::size_t k = first; k < first + 2; ++k)
                        weight += 2 * ua[k * 9 + i] * ub[k * 7 + h];
                    v[h] += x[token * 9 + i] * weight;
                }
                v[h] = std::max(v[h], 0.0);
            }
            for (std::size_t i = 0; i < 9; ++i) {
                for (std::size_t h = 0; h < 7; ++h) {
                    double weight = down[h * 9 + i];
                    for (std::size_t k = first; k < first + 2; ++k)
                        weight += 2 * da[k * 7 + h] * db[k * 9 + i];
                    o[i] += v[h] * weight;
                }
                expected[token * 9 + i] += r.gate(static_cast<index_t>(token), j) * o[i];
            }
        }
    }
    CHECK(distance(y, expected) < 1e-12);
}

TEST_CASE("mixlora: its switch variant, a full expert passes the token on", "[layer][lora]") {
    using full = capacity::per_sequence<2, capacity::overflow::token>;
    using switched =
        mixlora<9, 7, activation::silu, 2, every, route::top_k<1>, gate::softmax, full, balance::z_loss<>>;
    using unlimited = mixlora<9, 7, activation::silu, 2, every, route::top_k<1>, gate::softmax>;
    using limited =
        mixlora<9, 7, activation::silu, 2, every, route::top_k<1>, gate::softmax, capacity::per_sequence<2>>;
    const auto rows = batch::ragged({7, 0, 6});
    gradients<switched>(rows);
    gradients<limited>(rows);
    gradients<moe<experts<2, swiglu<7, 5>>, route::top_k<2>, full>>(rows);
    CHECK(same_for_threads<switched>(batch::ragged({300, 200})));

    const auto w = random_params<switched, double>(3);
    const auto x = normal_numbers<double>(13 * 9, 1);
    tape<switched, double> t;
    tape<unlimited, double> u;
    tape<limited, double> v;
    const auto y = run_forward(w, x, rows, t),
               all = run_forward(random_params<unlimited, double>(3), x, rows, u),
               rest = run_forward(random_params<limited, double>(3), x, rows, v);
    index_t dropped = 0;
    for (const std::size_t first : {std::size_t{0}, std::size_t{7}}) {
        index_t taken[2] = {0, 0};
        for (std::size_t token = first; token < (first == 0 ? 7u : 13u); ++token) {
            const auto e = static_cast<std::size_t>(u.routing()[0].chosen[token]);
            const double p = u.routing()[0].gate(static_cast<index_t>(token), 0);
            const bool fits = taken[e]++ < 2;
            dropped += fits ? 0 : 1;
            for (std::size_t j = 0; j < 9; ++j) {
                CHECK(y[token * 9 + j] ==
                      Approx(fits ? all[token * 9 + j] : p * x[token * 9 + j]).margin(1e-13));
                CHECK(rest[token * 9 + j] == Approx(fits ? all[token * 9 + j] : 0.0).margin(1e-13));
            }
        }
    }
    CHECK(dropped >= 5);
    CHECK(t.routing()[0].dropped == dropped);
    CHECK((t.routing()[0].counts[0] + t.routing()[0].counts[1] == 13));
}

TEST_CASE("mixlora: identical updates make the routing irrelevant", "[layer][lora]") {
    constexpr mixlora_spec spec{.adapter = {.rank = 2, .alpha = 4}};
    using four = mixlora<7, 5, activation::silu, 4, spec, route::top_k<2>>;
    auto w = random_params<four, double>(3);
    for (const std::string name : {"gate_a", "gate_b", "up_a", "up_b", "down_a", "down_b"}) {
        auto v = w.read(name);
        for (std::size_t i = v.size() / 4; i < v.size(); ++i) v[i] = v[i - v.size() / 4];
        w.write(name, v);
    }
    const auto x = normal_numbers<double>(5 * 7, 1);
    tape<four, double> t;
    const auto y = run_forward(w, x, batch::equal(1, 5), t);
    w.write("router", normal_numbers<double>(28, 9));
    CHECK(distance(run_forward(w, x, batch::equal(1, 5), t), y) < 1e-12);
}

TEST_CASE("mixlora: llava-mole's one choice for all three maps", "[layer][lora]") {
    // Unweighted top-1, taught by its balance loss; with gate::softmax by the task too.
    constexpr mixlora_spec spec{.adapter = {.rank = 2, .alpha = 4}};
    using hard = mixlora<7, 5, activation::silu, 4, spec, route::top_k<1>, gate::one, balance::counts<>>;
    using weighted = mixlora<7, 5, activation::silu, 4, spec, route::top_k<1>, gate::softmax>;
    CHECK(gradcheck<hard>({}, batch::ragged({3, 0, 5})).passed);
    CHECK(gradcheck<weighted>({}, batch::ragged({3, 0, 5})).passed);
    const auto w = random_params<hard, double>(3);
    const auto x = normal_numbers<double>(5 * 7, 1);
    tape<hard, double> t;
    const auto y = run_forward(w, x, batch::equal(1, 5), t);
    // Each token alone through the network of its expert.
    using one = mixlora<7, 5, activation::silu, 1, spec, route::top_k<1>>;
    for (std::size_t token = 0; token < 5; ++token) {
        const auto e = static_cast<std::size_t>(t.routing()[0].chosen[token]);
        auto v = random_params<one, double>(3);
        for (const std::string name : {"gate_a", "gate_b", "up_a", "up_b", "down_a", "down_b"}) {
            const auto all = w.read(name);
            const auto first = all.begin() + static_cast<std::ptrdiff_t>(e * all.size() / 4);
            v.write(name, std::vector<double>(first, first + static_cast<std::ptrdiff_t>(all.size() / 4)));
        }
        for (const std::string name : {"gate_up.0.weight", "down.0.weight"}) v.write(name, w.read(name));
        tape<one, double> u;
        const std::vector<double> row(x.begin() + static_cast<std::ptrdiff_t>(7 * token),
                                      x.begin() + static_cast<std::ptrdiff_t>(7 * token + 7));
        const auto alone = run_forward(v, row, batch::equal(1, 1), u);
        CHECK(distance(alone, std::vector<double>(y.begin() + static_cast<std::ptrdiff_t>(7 * token),
                                                  y.begin() + static_cast<std::ptrdiff_t>(7 * token + 7))) <
              1e-13);
    }
}

TEST_CASE("mixlora: float, threads, and no token", "[layer][lora]") {
    // Sums of at most 9 products of size about 1 through five maps and a softmax.
    CHECK(float_distance<net>(batch::ragged({4, 1, 9}), 5) < 1e-4);
    using large = mixlora<70, 90, activation::silu, 5, every, route::top_k<2>, balance::load<>>;
    CHECK(same_for_threads<large>(batch::ragged({300, 200}), 0.2));
    CHECK(nothing_from_no_token<net>());
}
