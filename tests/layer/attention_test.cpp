#include <mox/layer/attention.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <mox/exec/thread_pool.hpp>
#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/gradients.hpp"
#include "../support/layers.hpp"

using namespace mox;
using namespace mox_test;

namespace {

// Attention with its whole map, one number after the other.
template <class Net>
std::vector<double> plain_attention(const attention_spec& s, bool causal, const params<Net, double>& w,
                                    const std::vector<double>& x, const std::vector<index_t>& lengths) {
    const index_t D = s.width, H = s.heads, G = Net::kv_heads, d = Net::head_dim;
    const auto qkv = w.read("qkv"), out = w.read("out");
    const index_t columns = (H + 2 * G) * d;
    std::vector<double> y(x.size(), 0);
    index_t first = 0;
    for (const index_t n : lengths) {
        std::vector<double> p(static_cast<std::size_t>(n * columns), 0);
        for (index_t t = 0; t < n; ++t) {
            for (index_t c = 0; c < columns; ++c) {
                double sum = 0;
                for (index_t i = 0; i < D; ++i) {
                    sum += x[static_cast<std::size_t>((first + t) * D + i)] *
                           qkv[static_cast<std::size_t>(i * columns + c)];
                }
                p[static_cast<std::size_t>(t * columns + c)] = sum;
            }
            if (!s.rotary) continue;
            for (index_t h = 0; h < H + G; ++h) {
                for (index_t i = 0; i < d / 2; ++i) {
                    const double angle =
                        static_cast<double>(t) *
                        std::pow(s.rotary_base, -2.0 * static_cast<double>(i) / static_cast<double>(d));
                    double& a =
                        p[static_cast<std::size_t>(t * columns + h * d + (s.interleaved ? 2 * i : i))];
                    double& b = p[static_cast<std::size_t>(t * columns + h * d +
                                                           (s.interleaved ? 2 * i + 1 : i + d / 2))];
                    const double u = a, v = b;
                    a = u * std::cos(angle) - v * std::sin(angle);
                    b = v * std::cos(angle) + u * std::sin(angle);
                }
            }
        }
        const auto at = [&](index_t t, index_t c) { return p[static_cast<std::size_t>(t * columns + c)]; };
        for (index_t h = 0; h < H; ++h) {
            const index_t g = h / (H / G);
            for (index_t t = 0; t < n; ++t) {
                const index_t visible = causal ? t + 1 : n;
                std::vector<double> e;
                double sum = 0;
                for (index_t j = 0; j < visible; ++j) {
                    double score = 0;
                    for (index_t i = 0; i < d; ++i) score += at(t, h * d + i) * at(j, (H + g) * d + i);
                    e.push_back(std::exp(score / std::sqrt(static_cast<double>(d))));
                    sum += e.back();
                }
                for (index_t i = 0; i < d; ++i) {
                    double mixed = 0;
                    for (index_t j = 0; j < visible; ++j)
                        mixed += e[static_cast<std::size_t>(j)] / sum * at(j, (H + G + g) * d + i);
                    for (index_t c = 0; c < D; ++c) {
                        y[static_cast<std::size_t>((first + t) * D + c)] +=
                            mixed * out[static_cast<std::size_t>((h * d + i) * D + c)];
                    }
                }
            }
        }
        first += n;
    }
    return y;
}

template <attention_spec Spec, class Mask>
void check_against_plain(const std::vector<index_t>& lengths, std::uint64_t seed) {
    using net = attention<Spec, Mask>;
    const auto w = random_params<net, double>(seed, 0.4);
    const batch rows = batch::ragged(lengths);
    const auto x = normal_numbers<double>(rows.rows() * Spec.width, seed + 1);
    tape<net, double> t;
    const auto expected = plain_attention(Spec, Mask::is_causal, w, x, lengths);
    CHECK(distance(run_forward(w, x, rows, t), expected) < 1e-11);
    CHECK(distance(run_infer(w, x, rows, t), expected) < 1e-11);
    thread_pool pool(3);
    tape<net, double> threaded(pool);
    const auto y = run_forward(w, x, rows, t);
    CHECK(run_forward(w, x, rows, threaded) == y);
    const auto dy = normal_numbers<double>(rows.rows() * Spec.width, seed + 2);
    params<net, double> a, b;
    CHECK(run_backward(w, dy, t, a) == run_backward(w, dy, threaded, b));
    for (const auto& info : params<net, double>::tensors()) CHECK(a.read(info) == b.read(info));
}

const gradcheck_options few{.samples = 24};

}  // namespace

TEST_CASE("attention: forward against the full map", "[layer][attention]") {
    check_against_plain<attention_spec{.width = 8, .heads = 2}, mask::causal>({7}, 1);
    check_against_plain<attention_spec{.width = 8, .heads = 2}, mask::full>({7, 0, 1, 12}, 2);
    check_against_plain<attention_spec{.width = 12, .heads = 6, .kv_heads = 2}, mask::causal>({70, 3}, 3);
    check_against_plain<attention_spec{.width = 6, .heads = 3, .kv_heads = 1, .head_dim = 4}, mask::full>(
        {65}, 4);
    check_against_plain<attention_spec{.width = 5, .heads = 1, .rotary = false}, mask::causal>({9, 1}, 5);
    check_against_plain<attention_spec{.width = 8, .heads = 2, .interleaved = true}, mask::causal>({11}, 6);
    check_against_plain<attention_spec{.width = 16, .heads = 1, .rotary_base = 100}, mask::causal>({5}, 7);
    check_against_plain<attention_spec{.width = 7, .heads = 2, .head_dim = 3, .rotary = false}, mask::full>(
        {130}, 8);
}

TEST_CASE("attention: gradients", "[layer][attention]") {
    const batch ragged = batch::ragged({5, 0, 1, 3});
    gradients<attention<attention_spec{.width = 6, .heads = 3}>>(few, ragged);
    gradients<attention<attention_spec{.width = 6, .heads = 3}, mask::full>>(few, ragged);
    gradients<
        attention<attention_spec{.width = 5, .heads = 4, .kv_heads = 2, .head_dim = 2, .interleaved = true}>>(
        few, ragged);
    gradients<attention<attention_spec{.width = 5, .heads = 1, .rotary = false}, mask::full>>(
        few, batch::equal(2, 6));
    gradients<attention<attention_spec{.width = 4, .heads = 2}>>(few, batch::equal(1, 70));
}

TEST_CASE("attention: float agrees with double", "[layer][attention]") {
    CHECK(float_distance<attention<attention_spec{.width = 8, .heads = 2}>>(batch::ragged({9, 1, 4}), 4) <
          1e-4);
}

TEST_CASE("attention: a causal token does not see what comes behind it, nor other sequences",
          "[layer][attention]") {
    using net = attention<attention_spec{.width = 8, .heads = 2}>;
    const auto w = random_params<net, double>(3);
    auto x = normal_numbers<double>(10 * 8, 4);
    const batch rows = batch::ragged({6, 4});
    tape<net, double> t;
    const auto before = run_forward(w, x, rows, t);
    for (std::size_t j = 0; j < 8; ++j) x[3 * 8 + j] = std::numeric_limits<double>::quiet_NaN();
    const auto after = run_forward(w, x, rows, t);
    for (std::size_t i = 0; i < 80; ++i) {
        if (i / 8 >= 3 && i / 8 < 6)
            CHECK(std::isnan(after[i]));
        else
            CHECK(after[i] == before[i]);
    }
}

TEST_CASE("attention: a single token gets its own value", "[layer][attention]") {
    using net = attention<attention_spec{.width = 4, .heads = 2}>;
    const auto w = random_params<net, double>(3);
    const auto x = normal_numbers<double>(4, 4), qkv = w.read("qkv"), out = w.read("out");
    std::vector<double> value(4, 0), expected(4, 0);
    for (std::size_t i = 0; i < 4; ++i) {
        for (std::size_t c = 0; c < 4; ++c) value[c] += x[i] * qkv[i * 12 + 8 + c];
    }
    for (std::size_t i = 0; i < 4; ++i) {
        for (std::size_t c = 0; c < 4; ++c) expected[c] += value[i] * out[i * 4 + c];
    }
    tape<net, double> t;
    CHECK(distance(run_forward(w, x, batch::equal(1, 1), t), expected) < 1e-14);
}

TEST_CASE("attention: rotary scores depend on distances only", "[layer][attention]") {
    // The same rows at positions 0, 1, 2 and at 40, 41, 42.
    using net = attention<attention_spec{.width = 4, .heads = 1}, mask::full>;
    const auto w = random_params<net, double>(3);
    const auto x = normal_numbers<double>(12, 4);
    tape<net, double> t;
    const batch one = batch::equal(1, 3);
    const auto here = run_forward(w, x, one, t);
    const row_t offsets[2] = {0, 3}, positions[3] = {40, 41, 42};
    tape<net, double> u;
    auto ctx = u.begin(sequence_view{offsets, 1, positions, nullptr}, phase::evaluate, false);
    std::vector<double> there(12);
    net::forward<double>(ctx, w.ref(), matrix_view<const double>(x.data(), 3, 4),
                         matrix_view<double>(there.data(), 3, 4));
    CHECK(distance(there, here) < 1e-12);
}

TEST_CASE("attention: no token at all", "[layer][attention]") {
    using net = attention<attention_spec{.width = 4, .heads = 2}>;
    const auto w = random_params<net, double>(3);
    tape<net, double> t;
    auto g = random_params<net, double>(4);
    CHECK(run_forward<net, double>(w, {}, batch::ragged({0, 0}), t).empty());
    CHECK(run_backward<net, double>(w, {}, t, g).empty());
    for (const auto& info : params<net, double>::tensors()) {
        for (double v : g.read(info)) CHECK(v == 0.0);
    }
}
