#include <mox/layer/ffn.hpp>

#include <vector>

#include <mox/kernel/reference/activation.hpp>
#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/gradients.hpp"
#include "../support/layers.hpp"

using namespace mox;
using namespace mox_test;

namespace {

namespace plain = kernel::reference;

// Act: the plain twin of the activation.
template <class Net, index_t D, index_t H, class Act>
void check_ffn(bool gated, bool biased) {
    const auto w = random_params<Net, double>(7);
    const auto first = w.read(gated ? "gate_up" : "up"), second = w.read("down");
    std::vector<double> b1(H, 0), b2(D, 0);
    if (biased) {
        b1 = w.read("up_bias");
        b2 = w.read("down_bias");
    }
    for (const index_t tokens : {index_t{1}, index_t{8}, index_t{31}}) {
        const auto x = normal_numbers<double>(tokens * D, 2);
        std::vector<double> expected;
        for (index_t t = 0; t < tokens; ++t) {
            std::vector<double> h;
            const index_t columns = gated ? 2 * H : H;
            for (index_t j = 0; j < H; ++j) {
                double a = b1[static_cast<std::size_t>(j)], u = gated ? 0 : 1;
                for (index_t i = 0; i < D; ++i) {
                    a += x[static_cast<std::size_t>(t * D + i)] *
                         first[static_cast<std::size_t>(i * columns + j)];
                    if (gated)
                        u += x[static_cast<std::size_t>(t * D + i)] *
                             first[static_cast<std::size_t>(i * columns + H + j)];
                }
                h.push_back(Act::value(a) * u);
            }
            for (index_t i = 0; i < D; ++i) {
                double sum = b2[static_cast<std::size_t>(i)];
                for (index_t j = 0; j < H; ++j)
                    sum += h[static_cast<std::size_t>(j)] * second[static_cast<std::size_t>(j * D + i)];
                expected.push_back(sum);
            }
        }
        tape<Net, double> t;
        CHECK(distance(run_forward(w, x, batch::equal(1, tokens), t), expected) < 1e-12);
    }
    gradients<Net>({.samples = 24}, batch::equal(1, 5));
}

}  // namespace

TEST_CASE("ffn: forward against plain loops, and gradients", "[layer][ffn]") {
    check_ffn<swiglu<5, 3>, 5, 3, plain::silu>(true, false);
    check_ffn<swiglu<16, 37>, 16, 37, plain::silu>(true, false);
    check_ffn<gated_ffn<7, 16, activation::gelu_tanh>, 7, 16, plain::gelu_tanh>(true, false);
    check_ffn<mlp<9, 33>, 9, 33, plain::gelu>(false, false);
    check_ffn<mlp<1, 1, activation::silu, bias::with>, 1, 1, plain::silu>(false, true);
    check_ffn<mlp<17, 10, activation::relu_squared, bias::with>, 17, 10, plain::relu_squared>(false, true);
    check_ffn<mlp<6, 40, activation::identity, bias::with>, 6, 40, plain::identity>(false, true);
}

TEST_CASE("ffn: float agrees with double", "[layer][ffn]") {
    CHECK(float_distance<swiglu<24, 40>>(batch::equal(1, 20), 4) < 2e-4);
    CHECK(float_distance<mlp<24, 40, activation::gelu, bias::with>>(batch::equal(1, 20), 4) < 2e-4);
}

TEST_CASE("ffn: two halves of the hidden units add up to the whole", "[layer][ffn]") {
    constexpr index_t D = 6, H = 10, A = 3;
    const auto whole = random_params<swiglu<D, H>, double>(3);
    params<swiglu<D, A>, double> a;
    params<swiglu<D, H - A>, double> b;
    const auto first = whole.read("gate_up"), second = whole.read("down");
    std::vector<double> fa, fb;
    for (index_t i = 0; i < D; ++i) {
        for (index_t part = 0; part < 2; ++part) {
            const auto from = first.begin() + (i * 2 + part) * H;
            fa.insert(fa.end(), from, from + A);
            fb.insert(fb.end(), from + A, from + H);
        }
    }
    a.write("gate_up", fa);
    b.write("gate_up", fb);
    a.write("down", std::vector<double>(second.begin(), second.begin() + A * D));
    b.write("down", std::vector<double>(second.begin() + A * D, second.end()));
    const auto x = normal_numbers<double>(4 * D, 3);
    tape<swiglu<D, H>, double> t;
    tape<swiglu<D, A>, double> ta;
    tape<swiglu<D, H - A>, double> tb;
    const batch rows = batch::equal(1, 4);
    const auto y = run_forward(whole, x, rows, t), ya = run_forward(a, x, rows, ta),
               yb = run_forward(b, x, rows, tb);
    std::vector<double> sum;
    for (std::size_t i = 0; i < y.size(); ++i) sum.push_back(ya[i] + yb[i]);
    CHECK(distance(y, sum) < 1e-13);
}
