#include <mox/model/transfer.hpp>

#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;

namespace {

using block = stack<residual<rms_norm<8>, attention<attention_spec{.width = 8, .heads = 2}, mask::full>>,
                    residual<rms_norm<8>, swiglu<8, 12>>>;
template <class Second>
using network = stack<linear<3, 8>, repeat<2, stack<block, Second>>, linear<8, 5>>;
using dense = network<block>;
using mod =
    network<depth<block, route::learned, keep_permille<1000>, weighting::none, sampling::predictor<4>>>;
using amod = network<depth<block, route::attention_received, keep_permille<1000>>>;

}  // namespace

TEST_CASE("transfer: a dense network becomes one with depths, and back", "[model][transfer]") {
    const auto from = mox_test::random_params<dense, double>(1);
    const batch rows = batch::ragged({6, 3});
    const auto x = mox_test::normal_numbers<double>(27, 5);
    tape<dense, double> t;
    const auto expected = mox_test::run_forward(from, x, rows, t);

    params<amod, double> to;
    const transfer_report report = copy_matching(from, to);
    CHECK(report.copied == static_cast<index_t>(params<dense, double>::tensors().size()));
    CHECK(report.kept.empty());
    CHECK(report.unused.empty());
    tape<amod, double> u;
    CHECK(mox_test::run_forward(to, x, rows, u) == expected);  // capacity one: the same function, bit for bit

    params<dense, double> back;
    CHECK(copy_matching(to, back).unused.empty());
    CHECK(mox_test::run_forward(back, x, rows, t) == expected);
}

TEST_CASE("transfer: what only the target has keeps its values, what only the source has is named",
          "[model][transfer]") {
    const auto from = mox_test::random_params<dense, float>(1);
    auto to = mox_test::random_params<mod, double>(2);
    const auto router = to.read("1.0.1.router");
    const transfer_report report = copy_matching(from, to);
    CHECK(to.read("1.0.1.router") == router);
    CHECK(report.kept == std::vector<std::string>{"1.0.1.router", "1.0.1.predictor.hidden",
                                                  "1.0.1.predictor.hidden_bias", "1.0.1.predictor.out",
                                                  "1.0.1.predictor.out_bias", "1.1.1.router",
                                                  "1.1.1.predictor.hidden", "1.1.1.predictor.hidden_bias",
                                                  "1.1.1.predictor.out", "1.1.1.predictor.out_bias"});
    const auto a = from.read("1.1.1.0.1.qkv");
    CHECK(to.read("1.1.1.0.0.1.qkv") == std::vector<double>(a.begin(), a.end()));
    auto smaller = mox_test::random_params<dense, float>(3);
    CHECK(copy_matching(to, smaller).unused == report.kept);
    CHECK(smaller.read("1.1.1.0.1.qkv") == a);
}

TEST_CASE("transfer: tensors of one name and two shapes are refused, and nothing is changed",
          "[model][transfer]") {
    using wide = stack<linear<3, 8>, linear<8, 6>>;
    using narrow = stack<linear<3, 8>, linear<8, 5>>;
    const auto from = mox_test::random_params<wide, double>(1);
    auto to = mox_test::random_params<narrow, double>(2);
    const std::vector<double> before(to.flat().begin(), to.flat().end());
    CHECK_THROWS_WITH(copy_matching(from, to),
                      "mox::copy_matching: tensor '1.weight' must have the same shape in both networks, but "
                      "is 1 x 8 x 6 in the source and 1 x 8 x 5 in the target");
    CHECK(std::vector<double>(to.flat().begin(), to.flat().end()) == before);
}

TEST_CASE("transfer: tensors of one name find each other by their shapes, then in order",
          "[model][transfer]") {
    using mixture = moe<experts<3, swiglu<8, 12>>, route::top_k<1>>;
    using deep = depth<residual<mixture>, route::learned, keep_permille<500>>;
    // The router of depth and that of the mixture: the same network in another scalar, and the mixture alone.
    const auto from = mox_test::random_params<deep, float>(1);
    params<deep, double> same;
    CHECK(copy_matching(from, same).kept.empty());
    for (const auto& t : params<deep, float>::tensors()) {
        const auto v = from.read(t);
        CHECK(same.read(t.path) == std::vector<double>(v.begin(), v.end()));
    }
    const auto alone = mox_test::random_params<residual<mixture>, double>(2);
    const transfer_report report = copy_matching(alone, same);
    CHECK(report.kept == std::vector<std::string>{"router"});
    CHECK(report.unused.empty());
    // Adapters around adapters, of equal and of other ranks.
    constexpr adapter_spec rank2{.rank = 2}, rank3{.rank = 3};
    const auto twice = [](auto type) {
        using net = typename decltype(type)::type;
        const auto w = mox_test::random_params<net, double>(3);
        params<net, double> copy;
        CHECK(copy_matching(w, copy).kept.empty());
        for (const auto& t : params<net, double>::tensors()) CHECK(copy.read(t) == w.read(t));
    };
    twice(std::type_identity<lora<lora<linear<5, 4>, rank2>, rank2>>{});
    twice(std::type_identity<lora<lora<linear<5, 4>, rank2>, rank3>>{});
}
