#include <mox/layer/norm.hpp>

#include <cmath>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/gradients.hpp"
#include "../support/layers.hpp"

using namespace mox;
using namespace mox_test;

namespace {

template <index_t D>
void check_norms(index_t tokens) {
    const batch rows = batch::equal(1, tokens);
    const auto x = normal_numbers<double>(tokens * D, 5, 2.0);
    {
        const auto w = random_params<rms_norm<D>, double>(1);
        const auto gain = w.read("gain");
        std::vector<double> expected;
        for (index_t t = 0; t < tokens; ++t) {
            double square = 0;
            for (index_t j = 0; j < D; ++j)
                square += x[static_cast<std::size_t>(t * D + j)] * x[static_cast<std::size_t>(t * D + j)];
            for (index_t j = 0; j < D; ++j) {
                expected.push_back(gain[static_cast<std::size_t>(j)] *
                                   x[static_cast<std::size_t>(t * D + j)] /
                                   std::sqrt(square / static_cast<double>(D) + 1e-6));
            }
        }
        tape<rms_norm<D>, double> t;
        CHECK(distance(run_forward(w, x, rows, t), expected) < 1e-13);
    }
    {
        using net = layer_norm<D, coefficient{0.01}>;
        const auto w = random_params<net, double>(1);
        const auto gain = w.read("gain"), shift = w.read("shift");
        std::vector<double> expected;
        for (index_t t = 0; t < tokens; ++t) {
            double mean = 0, variance = 0;
            for (index_t j = 0; j < D; ++j)
                mean += x[static_cast<std::size_t>(t * D + j)] / static_cast<double>(D);
            for (index_t j = 0; j < D; ++j)
                variance +=
                    std::pow(x[static_cast<std::size_t>(t * D + j)] - mean, 2) / static_cast<double>(D);
            for (index_t j = 0; j < D; ++j) {
                expected.push_back(gain[static_cast<std::size_t>(j)] *
                                       (x[static_cast<std::size_t>(t * D + j)] - mean) /
                                       std::sqrt(variance + 0.01) +
                                   shift[static_cast<std::size_t>(j)]);
            }
        }
        tape<net, double> t;
        CHECK(distance(run_forward(w, x, rows, t), expected) < 1e-13);
    }
}

}  // namespace

TEST_CASE("norms: forward against plain loops", "[layer][norm]") {
    for (const index_t tokens : {index_t{0}, index_t{1}, index_t{5}, index_t{130}}) {
        check_norms<1>(tokens);
        check_norms<3>(tokens);
        check_norms<16>(tokens);
        check_norms<33>(tokens);
    }
}

TEST_CASE("norms: gradients", "[layer][norm]") {
    gradients<rms_norm<1>>(batch::equal(1, 4));
    gradients<rms_norm<5>>(batch::ragged({3, 0, 1, 4}));
    gradients<rms_norm<19>>(batch::equal(1, 1));
    gradients<rms_norm<70>>(batch::equal(1, 3));
    gradients<layer_norm<5>>(batch::ragged({3, 0, 1, 4}));
    gradients<layer_norm<19>>(batch::equal(1, 1));
    gradients<layer_norm<70, coefficient{0.1}>>(batch::equal(1, 3));
}

TEST_CASE("norms: float agrees with double", "[layer][norm]") {
    CHECK(float_distance<rms_norm<37>>(batch::equal(1, 9), 4) < 5e-6);
    CHECK(float_distance<layer_norm<37>>(batch::equal(1, 9), 4) < 5e-6);
}

TEST_CASE("norms: rows of zeros and of one value", "[layer][norm]") {
    const auto w = random_params<rms_norm<4>, double>(1);
    tape<rms_norm<4>, double> t;
    CHECK(run_forward(w, {0, 0, 0, 0}, batch::equal(1, 1), t) == std::vector<double>(4, 0.0));
    const auto v = random_params<layer_norm<4>, double>(1);
    tape<layer_norm<4>, double> u;
    CHECK(run_forward(v, {7, 7, 7, 7}, batch::equal(1, 1), u) == v.read("shift"));
}

TEST_CASE("norms: layer norm keeps its digits under a large mean", "[layer][norm]") {
    params<layer_norm<4>, float> w(init::standard, 1);
    tape<layer_norm<4>, float> t;
    // 4096 + {0, 1, 2, 3}: exact in float, though not the squares' sum.
    const auto y = run_forward(w, {4096, 4097, 4098, 4099}, batch::equal(1, 1), t);
    const double r = 1 / std::sqrt(1.25 + 1e-5);
    CHECK(distance(y, std::vector<double>{-1.5 * r, -0.5 * r, 0.5 * r, 1.5 * r}) < 1e-6);
}

TEST_CASE("norms: no token gives zero gradients", "[layer][norm]") {
    tape<layer_norm<4>, double> t;
    auto g = random_params<layer_norm<4>, double>(1);
    const auto w = random_params<layer_norm<4>, double>(2);
    run_forward<layer_norm<4>, double>(w, {}, batch::equal(0, 0), t);
    run_backward<layer_norm<4>, double>(w, {}, t, g);
    CHECK(g.read("gain") == std::vector<double>(4, 0.0));
    CHECK(g.read("shift") == std::vector<double>(4, 0.0));
}
