#include <mox/route/mlp_scorer.hpp>

#include <cmath>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/gradients.hpp"
#include "../support/layers.hpp"

using namespace mox;
using mox_test::gradients;
using mox_test::normal_numbers;
using mox_test::random_params;
using mox_test::run_forward;

namespace {

constexpr adapter_spec rank2{.rank = 2, .alpha = 5};
template <class... Policies>
using bank = lora_experts<linear<7, 9>, 4, rank2, Policies...>;
using per_token = bank<route::mlp_scorer<5>, route::top_k<2>, balance::load<>>;
using per_image = bank<route::sequence_mlp_scorer<5>, route::all, gate::softmax>;
using mova = bank<route::sequence_mlp_scorer<5>, route::masked_top_k<3>>;

batch with_masks() {
    auto rows = batch::ragged({3, 0, 5, 2, 1});
    rows.with_allowed_experts({1, 0, 1, 1, 1, 1, 1, 1, 0, 0, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0}, 4);
    return rows;
}

}  // namespace

TEST_CASE("mlp_scorer: gradients, token by token, per sequence, and with a mask", "[route][mlp_scorer]") {
    gradients<per_token>(with_masks());
    gradients<per_image>(with_masks());
    gradients<mova>(with_masks());
    gradients<moe<experts<4, swiglu<7, 5>>, route::mlp_scorer<6, activation::relu>, route::top_k<2>>>(
        with_masks());
    constexpr mixlora_spec spec{.adapter = rank2};
    gradients<mixlora<7, 5, activation::silu, 4, spec, route::mlp_scorer<3>, route::top_k<2>>>(with_masks());
}

TEST_CASE("mlp_scorer: gates against plain loops, a decision per image from text and mean token",
          "[route][mlp_scorer]") {
    // Columns 0 to 2: the text feature, the same for each token of the image; the others: image tokens.
    auto rows = batch::ragged({3, 0, 4});
    auto x = normal_numbers<double>(7 * 7, 1);
    for (std::size_t t = 0; t < 7; ++t) {
        for (std::size_t j = 0; j < 3; ++j) x[t * 7 + j] = x[(t < 3 ? 0 : 3) * 7 + j];
    }
    const auto w = random_params<per_image, double>(4);
    tape<per_image, double> tape;
    run_forward(w, x, rows, tape);
    const auto w1 = w.read("router.in"), b1 = w.read("router.in_bias"), w2 = w.read("router.out"),
               b2 = w.read("router.out_bias");
    for (std::size_t first : {std::size_t{0}, std::size_t{3}}) {
        const std::size_t length = first == 0 ? 3 : 4;
        std::vector<double> feature(7, 0.0), p(4);
        for (std::size_t j = 0; j < 3; ++j) feature[j] = x[first * 7 + j];
        for (std::size_t j = 3; j < 7; ++j) {
            for (std::size_t t = first; t < first + length; ++t)
                feature[j] += x[t * 7 + j] / static_cast<double>(length);
        }
        double sum = 0;
        for (std::size_t e = 0; e < 4; ++e) {
            double logit = b2[e];
            for (std::size_t h = 0; h < 5; ++h) {
                double a = b1[h];
                for (std::size_t j = 0; j < 7; ++j) a += feature[j] * w1[j * 5 + h];
                logit += a / (1 + std::exp(-a)) * w2[h * 4 + e];
            }
            sum += p[e] = std::exp(logit);
        }
        for (std::size_t t = first; t < first + length; ++t) {
            for (std::size_t e = 0; e < 4; ++e)
                CHECK(tape.routing()[0].gate(static_cast<index_t>(t), static_cast<index_t>(e)) ==
                      Approx(p[e] / sum).epsilon(1e-12));
        }
    }
}

TEST_CASE("mlp_scorer: at the start all experts tie, and the lowest allowed ones are chosen",
          "[route][mlp_scorer]") {
    const params<mova, double> w(init::standard, 3);
    const auto x = normal_numbers<double>(11 * 7, 1);
    tape<mova, double> t;
    run_forward(w, x, with_masks(), t);
    const routing_record& r = t.routing()[0];
    CHECK((r.chosen[0] == 0 && r.chosen[1] == 2 && r.chosen[2] == 3));
    CHECK(r.gate(0, 0) == Approx(1.0 / 3));
    const index_t full = 3 + 5;  // the sequence that may use all
    CHECK((r.chosen[full * 3] == 0 && r.chosen[full * 3 + 1] == 1 && r.chosen[full * 3 + 2] == 2));
}

TEST_CASE("mlp_scorer: threads, no tokens, and no stream for decisions per sequence", "[route][mlp_scorer]") {
    CHECK(mox_test::same_for_threads<per_image>(batch::ragged({40, 1, 0, 300, 2, 2, 64, 100, 5})));
    CHECK(mox_test::same_for_threads<per_token>(batch::ragged({300, 200})));
    const auto w = random_params<per_image, double>(4);
    tape<per_image, double> t;
    CHECK(run_forward(w, {}, batch::ragged({0, 0}), t).empty());
    stream<per_image, double> s(4);
    const auto x = normal_numbers<double>(7, 1);
    CHECK_THROWS_WITH(decode(w, matrix_view<const double>(x.data(), 1, 7), s),
                      Catch::Matchers::Contains("whole sequences"));
}
