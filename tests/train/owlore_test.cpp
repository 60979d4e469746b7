#include <mox/train/owlore.hpp>

#include <cmath>
#include <span>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"
#include "../support/values.hpp"

namespace {

using Catch::Matchers::Contains;
using mox::index_t;

}  // namespace

TEST_CASE("OwLore's probabilities in every mode", "[train][owlore]") {
    using mode = mox::owlore_mode;
    const std::vector<double> d{3, 1, 4, 0};
    const auto p = [&](mode m) { return mox::owlore_probabilities(m, d); };
    REQUIRE(p(mode::uniform) == std::vector<double>{0.25, 0.25, 0.25, 0.25});
    REQUIRE(p(mode::owl) == std::vector<double>{0.375, 0.125, 0.5, 0});
    REQUIRE(p(mode::norm) == p(mode::owl));
    REQUIRE(p(mode::owl_reverse) == std::vector<double>{0.125, 0.375, 0, 0.5});
    REQUIRE(p(mode::increase) == std::vector<double>{0.1, 0.2, 3.0 / 10, 0.4});
    REQUIRE(p(mode::decrease) == std::vector<double>{0.4, 3.0 / 10, 0.2, 0.1});

    const std::vector<double> none, zeros(3), same(3, 2.0), negative{1, -1};
    REQUIRE_THROWS_WITH(mox::owlore_probabilities(mode::uniform, none), Contains("one element per block"));
    REQUIRE_THROWS_WITH(mox::owlore_probabilities(mode::owl, zeros), Contains("a number above zero"));
    REQUIRE_THROWS_WITH(mox::owlore_probabilities(mode::norm, negative), Contains("not negative"));
    REQUIRE_THROWS_WITH(mox::owlore_probabilities(mode::owl_reverse, same), Contains("must not be the same"));
}

TEST_CASE("the share of outliers counts weights times the size of their input", "[train][owlore]") {
    // Two batches of two inputs: sizes 5 and 13.
    mox::activation_norms sizes(2);
    std::vector<float> first{3, 5}, second{4, -12};
    sizes.add(mox::matrix_view<const float>{first.data(), 1, 2});
    sizes.add(mox::matrix_view<float>{second.data(), 1, 2});
    REQUIRE(sizes.norms() == std::vector<double>{5, 13});

    // |W| ||X||: 5 10 0 and 13 0 52, then 2 and 8; the mean is 11.25.
    const std::vector<double> w{1, -2, 0, 1, 0, -4}, v{1, -4}, in = sizes.norms(), one{2};
    const std::vector<mox::weighed_map<double>> maps{{w, in}, {v, one}};
    const std::span<const mox::weighed_map<double>> all(maps);
    REQUIRE(mox::outlier_share(all, 4.0) == 1.0 / 8);
    REQUIRE(mox::outlier_share(all, 1.0) == 2.0 / 8);
    REQUIRE(mox::outlier_share(all, 0.8) == 3.0 / 8);
    const std::vector<mox::weighed_map<double>> level{{one, one}};
    REQUIRE(mox::outlier_share(std::span<const mox::weighed_map<double>>(level), 1.0) == 0.0);  // not larger
    REQUIRE(mox::outlier_share(all) == 0.0);

    // M = 13 of the paper: one weight of 20 holds all of the sum.
    std::vector<float> spike(20);
    spike[7] = 1;
    const std::vector<double> flat(20, 0.5);
    const std::vector<mox::weighed_map<float>> single{{spike, flat}};
    REQUIRE(mox::outlier_share(std::span<const mox::weighed_map<float>>(single)) == 0.05);
    spike[7] = 0;
    REQUIRE(mox::outlier_share(std::span<const mox::weighed_map<float>>(single)) == 0.0);

    const std::vector<double> wrong(3, 1.0), nothing;
    const std::vector<mox::weighed_map<double>> uneven{{v, wrong}}, empty;
    using view = std::span<const mox::weighed_map<double>>;
    REQUIRE_THROWS_WITH(mox::outlier_share(view(uneven)), Contains("one input norm for each row"));
    REQUIRE_THROWS_WITH(mox::outlier_share(view(empty)), Contains("must hold weights"));
    REQUIRE_THROWS_WITH(mox::outlier_share(all, 0.0), Contains("'multiple' must be positive"));
    REQUIRE_THROWS_WITH(mox::activation_norms(0), Contains("'width' must be positive"));
    REQUIRE_THROWS_WITH(sizes.add(mox::matrix_view<float>{first.data(), 2, 1}), Contains("2 columns"));
}

TEST_CASE("OwLore's probabilities sum to one and keep the order of what they are made of",
          "[train][owlore]") {
    using mode = mox::owlore_mode;
    std::vector<double> d;
    const mox::random_stream numbers(5, 1);
    for (std::uint64_t i = 0; i < 33; ++i) d.push_back(1e-3 + numbers.uniform(i));
    for (const mode m :
         {mode::uniform, mode::owl, mode::owl_reverse, mode::increase, mode::decrease, mode::norm}) {
        const auto p = mox::owlore_probabilities(m, d);
        REQUIRE(p.size() == d.size());
        double sum = 0;
        for (const double x : p) {
            REQUIRE(x >= 0);
            sum += x;
        }
        REQUIRE(sum == Approx(1).epsilon(1e-14));
        for (std::size_t b = 1; b < p.size(); ++b) {
            if (m == mode::owl || m == mode::norm) REQUIRE((p[b] > p[b - 1]) == (d[b] > d[b - 1]));
            if (m == mode::owl_reverse) REQUIRE((p[b] < p[b - 1]) == (d[b] > d[b - 1]));
            if (m == mode::increase) REQUIRE(p[b] > p[b - 1]);
            if (m == mode::decrease) REQUIRE(p[b] < p[b - 1]);
        }
    }
    // One block alone, and scores that do not count in modes without them.
    REQUIRE(mox::owlore_probabilities(mode::owl, std::vector<double>{0.2}) == std::vector<double>{1});
    const std::vector<double> bad{NAN, -1};
    REQUIRE(mox::owlore_probabilities(mode::uniform, bad) == std::vector<double>{0.5, 0.5});
    REQUIRE_THROWS_WITH(mox::owlore_probabilities(mode::owl, bad), Contains("finite numbers"));
    const std::vector<double> endless{INFINITY, 1}, huge{1e308, 1e308};
    REQUIRE_THROWS_WITH(mox::owlore_probabilities(mode::norm, endless), Contains("finite numbers"));
    REQUIRE_THROWS_WITH(mox::owlore_probabilities(mode::norm, huge), Contains("mox::owlore_probabilities"));
}

TEST_CASE("the sizes of inputs add up over batches, also of no row, and count in double", "[train][owlore]") {
    mox::activation_norms parts(3), whole(3);
    const auto x = values::normal<float>(20, 3, 7);
    whole.add(mox::matrix_view<const float>{x.data(), 20, 3});
    parts.add(mox::matrix_view<const float>{x.data(), 13, 3});
    parts.add(mox::matrix_view<const float>{x.data(), 0, 3});
    parts.add(mox::matrix_view<const float>{x.data() + 39, 7, 3});
    REQUIRE(parts.norms() == whole.norms());
    for (index_t j = 0; j < 3; ++j) {
        double sum = 0;
        for (index_t i = 0; i < 20; ++i) sum += double{x(i, j)} * double{x(i, j)};
        REQUIRE(whole.norms()[static_cast<std::size_t>(j)] == std::sqrt(sum));
    }
    REQUIRE(mox::activation_norms(2).norms() == std::vector<double>{0, 0});
}

TEST_CASE("the share of outliers does not change with the scale, and refuses what is no number",
          "[train][owlore]") {
    auto w = values::normal<double>(40, 10, 3);
    w(7, 3) = 90;
    const std::vector<double> in(40, 1.0);
    using view = std::span<const mox::weighed_map<double>>;
    const auto share = [&] {
        const std::vector<mox::weighed_map<double>> one{{w.v, in}};
        return mox::outlier_share(view(one));
    };
    REQUIRE(share() == 1.0 / 400);
    for (double& v : w.v) v *= -1024;
    REQUIRE(share() == 1.0 / 400);
    w(0, 0) = NAN;
    REQUIRE_THROWS_WITH(share(), Contains("mox::outlier_share: argument 'maps' must hold finite numbers"));
}

TEST_CASE("the shares of outliers of a network's blocks, from what reaches their maps", "[train][owlore]") {
    using namespace mox;
    constexpr attention_spec heads{.width = 8, .heads = 2};
    using block = stack<residual<rms_norm<8>, attention<heads, mask::causal, as_observed<>>>,
                        residual<adapted_ffn<8, 6, activation::silu, as_observed<>>>>;
    using net = stack<observed<linear<6, 8>>, repeat<3, block>, linear<8, 5>>;
    auto w = mox_test::random_params<net, double>(1);
    // One huge weight in the second block.
    auto down = w.read("1.1.1.0.down.0.weight");
    down[5] = 500;
    w.write("1.1.1.0.down.0.weight", down);
    input_statistics<net, activation_norms> inputs;
    tape<net, double> t;
    t.observe(inputs);
    mox_test::run_infer(w, mox_test::normal_numbers<double>(54, 1), batch::ragged({4, 5}), t);
    const auto shares = outlier_shares(w, inputs);
    REQUIRE(shares.size() == 3);
    CHECK(shares[1] == Approx(1.0 / (8 * 24 + 8 * 8 + 8 * 12 + 6 * 8)));
    CHECK(owlore_probabilities(owlore_mode::owl, shares).size() == 3);

    // All of them by hand, for a smaller multiple.
    for (std::size_t b = 0; b < 3; ++b) {
        std::vector<std::vector<double>> weights, norms;
        for (const std::string map : {"0.1.qkv", "0.1.out", "1.0.gate_up", "1.0.down"}) {
            const std::string path = "1." + std::to_string(b) + "." + map;
            weights.push_back(w.read(path + ".0.weight"));
            norms.push_back(inputs.at(path).norms());
        }
        std::vector<weighed_map<double>> maps;
        for (std::size_t m = 0; m < 4; ++m) maps.push_back({weights[m], norms[m]});
        CHECK(outlier_shares(w, inputs, 1.5)[b] ==
              outlier_share(std::span<const weighed_map<double>>(maps), 1.5));
    }
    using dark = stack<observed<linear<6, 8>>, repeat<2, linear<8, 8>>>;
    CHECK_THROWS_WITH(outlier_shares(params<dark, double>(), input_statistics<dark, activation_norms>()),
                      Contains("block 0 shows no mox::linear"));
    // Nothing seen, no outlier; an adapter's map is frozen and no part of a block.
    CHECK(outlier_shares(w, input_statistics<net, activation_norms>()) == std::vector<double>(3, 0.0));
    constexpr adapter_spec rank2{.rank = 2};
    using adapted = repeat<2, observed<lora<linear<8, 8>, rank2>>>;
    CHECK_THROWS_WITH(outlier_shares(params<adapted, double>(init::standard, 1),
                                     input_statistics<adapted, activation_norms>()),
                      Contains("block 0 shows no mox::linear"));
}
