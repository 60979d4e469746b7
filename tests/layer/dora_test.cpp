#include <mox/layer/dora.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using namespace mox_test;

namespace {

constexpr adapter_spec rank3{.rank = 3, .alpha = 5}, dropping{.rank = 3, .alpha = 5, .dropout = 0.25};
using net = dora<linear<7, 9>, rank3>;

// y = m / |W + sAB| (x W + b + s x A B) and its gradients by plain loops, the norms held constant.
struct oracle {
    std::vector<double> y, dx, da, db, dm;

    oracle(const params<net, double>& w, const std::vector<double>& x, const std::vector<double>& dy) {
        const auto m = w.read("magnitude"), a = w.read("0.a"), b = w.read("0.b"),
                   base = w.read("0.0.0.weight");
        const double s = 5.0 / 3;
        std::vector<double> c(9), norm(9);
        for (std::size_t o = 0; o < 9; ++o) {
            double square = 0;
            for (std::size_t i = 0; i < 7; ++i) {
                double v = base[i * 9 + o];
                for (std::size_t r = 0; r < 3; ++r) v += s * a[r * 7 + i] * b[r * 9 + o];
                square += v * v;
            }
            norm[o] = std::sqrt(square);
            c[o] = m[o] / norm[o];
        }
        const std::size_t n = x.size() / 7;
        y.resize(n * 9);
        dx.resize(n * 7);
        da.resize(21);
        db.resize(27);
        dm.resize(9);
        for (std::size_t t = 0; t < n; ++t) {
            std::vector<double> z(3), dz(3);
            for (std::size_t r = 0; r < 3; ++r) {
                for (std::size_t i = 0; i < 7; ++i) z[r] += x[t * 7 + i] * a[r * 7 + i];
            }
            for (std::size_t o = 0; o < 9; ++o) {
                double inner = 0;
                for (std::size_t i = 0; i < 7; ++i) inner += x[t * 7 + i] * base[i * 9 + o];
                for (std::size_t r = 0; r < 3; ++r) inner += s * z[r] * b[r * 9 + o];
                y[t * 9 + o] = c[o] * inner;
                const double d = c[o] * dy[t * 9 + o];
                dm[o] += dy[t * 9 + o] * inner / norm[o];
                for (std::size_t r = 0; r < 3; ++r) {
                    db[r * 9 + o] += s * z[r] * d;
                    dz[r] += s * b[r * 9 + o] * d;
                }
                for (std::size_t i = 0; i < 7; ++i) dx[t * 7 + i] += d * base[i * 9 + o];
            }
            for (std::size_t r = 0; r < 3; ++r) {
                for (std::size_t i = 0; i < 7; ++i) {
                    da[r * 7 + i] += dz[r] * x[t * 7 + i];
                    dx[t * 7 + i] += dz[r] * a[r * 7 + i];
                }
            }
        }
    }
};

}  // namespace

TEST_CASE("dora: output and gradients against plain loops", "[layer][lora]") {
    const auto w = random_params<net, double>(3);
    const auto x = normal_numbers<double>(5 * 7, 1), dy = normal_numbers<double>(5 * 9, 2);
    const oracle expected(w, x, dy);
    tape<net, double> t;
    params<net, double> g;
    CHECK(distance(run_forward(w, x, batch::equal(1, 5), t), expected.y) < 1e-13);
    CHECK(distance(run_backward(w, dy, t, g), expected.dx) < 1e-13);
    CHECK(distance(g.read("0.a"), expected.da) < 1e-13);
    CHECK(distance(g.read("0.b"), expected.db) < 1e-13);
    CHECK(distance(g.read("magnitude"), expected.dm) < 1e-13);
}

TEST_CASE("dora: starts as its base once its magnitudes are the norms", "[layer][lora]") {
    using deep =
        stack<dora<linear<7, 9, bias::with>, dropping>, residual<rms_norm<9>, dora<linear<9, 9>, rank3>>>;
    using plain = stack<linear<7, 9, bias::with>, residual<rms_norm<9>, linear<9, 9>>>;
    params<deep, double> w{init::standard, 4};
    const auto from = random_params<plain, double>(5);
    (void)copy_matching(from, w);
    CHECK(start_dora(w) == 2);
    const auto x = normal_numbers<double>(5 * 7, 1);
    tape<deep, double> t;
    tape<plain, double> u;
    const auto y = run_forward(from, x, batch::equal(1, 5), u);
    CHECK(distance(run_forward(w, x, batch::equal(1, 5), t), y) < 1e-13);
    // Twice the magnitudes: twice the output.
    using one = dora<linear<7, 9>, rank3>;
    auto v = random_params<one, double>(6);
    tape<one, double> s;
    auto before = run_forward(v, x, batch::equal(1, 5), s);
    auto m = v.read("magnitude");
    for (double& i : m) i *= 2;
    for (double& i : before) i *= 2;
    v.write("magnitude", m);
    CHECK(distance(run_forward(v, x, batch::equal(1, 5), s), before) < 1e-13);
}

TEST_CASE("dora: float, threads, no token", "[layer][lora]") {
    CHECK(float_distance<net>(batch::ragged({3, 0, 5}), 3) < 1e-4);
    CHECK(same_for_threads<dora<linear<70, 90>, dropping>>(batch::ragged({300, 200})));
    const auto w = random_params<net, double>(3);
    tape<net, double> t;
    CHECK(run_forward(w, {}, batch::ragged({0}), t).empty());
    CHECK(nothing_from_no_token<net>());
}

TEST_CASE("dora: an output whose weights are all zero stays zero, and learns", "[layer][lora]") {
    auto w = random_params<net, double>(3);
    auto base = w.read("0.0.0.weight");
    for (std::size_t i = 0; i < 7; ++i) base[i * 9 + 4] = 0;
    w.write("0.0.0.weight", base);
    w.write("0.b", std::vector<double>(27, 0.0));
    start_dora(w);
    CHECK(w.read("magnitude")[4] == 0);
    const auto x = normal_numbers<double>(5 * 7, 1), dy = normal_numbers<double>(5 * 9, 2);
    const auto rows = batch::equal(1, 5);
    tape<net, double> t;
    params<net, double> g;
    params<linear<7, 9>, double> only;
    copy_matching(w, only);
    tape<linear<7, 9>, double> u;
    CHECK(distance(run_forward(w, x, rows, t), run_forward(only, x, rows, u)) < 1e-13);
    const auto dx = run_backward(w, dy, t, g);
    for (const double v : dx) REQUIRE(std::isfinite(v));
    CHECK(g.read("magnitude")[4] == 0);
    double largest = 0;
    for (std::size_t r = 0; r < 3; ++r) largest = std::max(largest, std::abs(g.read("0.b")[r * 9 + 4]));
    CHECK(largest > 0.01);
    // Merging is the same function.
    params<linear<7, 9>, double> merged = only;
    merge(w, merged);
    CHECK(distance(merged.read("weight"), only.read("weight")) < 1e-13);
}
