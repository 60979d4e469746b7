#include <mox/transform/merge.hpp>

#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/adapter_case.hpp"
#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using Catch::Matchers::Contains;
using mox_test::distance;
using mox_test::normal_numbers;
using mox_test::run_forward;

namespace {

constexpr adapter_spec rank3{.rank = 3, .alpha = 5};
constexpr attention_spec heads{.width = 16, .heads = 2};
template <class A>
using attend = residual<frozen<rms_norm<16>>, attention<heads, mask::causal, A>>;
using dense =
    stack<linear<6, 16, bias::with>,
          repeat<2, stack<attend<as_they_are>, residual<rms_norm<16>, swiglu<16, 9>>>>, linear<16, 5>>;
using adapted = stack<
    lora<linear<6, 16, bias::with>, rank3>,
    repeat<2, stack<attend<with_lora<rank3>>,
                    residual<frozen<rms_norm<16>>, adapted_ffn<16, 9, activation::silu, with_lora<rank3>>>>>,
    frozen<linear<16, 5>>>;

}  // namespace

TEST_CASE("adapters: a trained network becomes the frozen base of one with adapters", "[transform][lora]") {
    const params<dense, double> trained(init::standard, 3);
    params<adapted, double> w(init::standard, 4);
    const auto report = copy_matching(trained, w);
    CHECK(report.unused.empty());
    CHECK(report.copied == static_cast<index_t>(params<dense>::tensors().size()));
    for (const auto& path : report.kept) CHECK((path.ends_with("a") || path.ends_with("b")));
    // B is zero: the same function.
    const auto rows = batch::ragged({4, 7});
    const auto x = normal_numbers<double>(66, 1);
    tape<dense, double> t;
    tape<adapted, double> u;
    CHECK(distance(run_forward(w, x, rows, u), run_forward(trained, x, rows, t)) < 1e-13);
}

TEST_CASE("adapters: gradients of adapters on the maps of attention and of a feed-forward network",
          "[transform][lora]") {
    gradcheck_options o;
    const auto r = gradcheck<adapted>(o, batch::ragged({4, 0, 5}));
    INFO(r.message);
    CHECK(r.passed);
    CHECK(r.worst() < 1e-7);
    constexpr adapter_spec rank2{.rank = 2};
    using routed = stack<attend<with_lora_experts<3, rank2, route::top_k<2>>>,
                         adapted_ffn<16, 9, activation::gelu, with_lora<rank2, rank_gate::sigmoid_top_k<1>>>>;
    o.may_be_zero = {"1.gate_up.router", "1.down.router"};
    const auto s = gradcheck<routed>(o, batch::ragged({4, 0, 5}));
    INFO(s.message);
    CHECK(s.passed);
}

TEST_CASE("merge: the merged network computes the same, and unmerge gives the base back",
          "[transform][lora]") {
    auto w = mox_test::random_params<adapted, double>(4, 0.3);
    params<dense, double> plain;
    copy_matching(w, plain);
    const auto before = plain;
    CHECK(merge(w, plain) == 9);
    const auto rows = batch::ragged({4, 7});
    const auto x = normal_numbers<double>(66, 1);
    tape<dense, double> t;
    tape<adapted, double> u;
    const auto y = run_forward(w, x, rows, u);
    CHECK(distance(run_forward(plain, x, rows, t), y) < 1e-12);
    CHECK(distance(run_forward(before, x, rows, t), y) > 1e-3);

    const auto once = plain;
    CHECK_THROWS_WITH(merge(w, plain),
                      Contains("must be the adapter's frozen map") && Contains("merged already"));
    for (const auto& info : params<dense, double>::tensors()) CHECK(plain.read(info) == once.read(info));
    CHECK(unmerge(w, plain) == 9);
    for (const auto& info : params<dense, double>::tensors()) CHECK(plain.read(info) == before.read(info));
    CHECK_THROWS_WITH(unmerge(w, plain), Contains("is not merged with this adapter"));
}

TEST_CASE("merge: nothing is half done when a map is missing", "[transform][lora]") {
    const auto w = mox_test::random_params<adapted, double>(4, 0.3);
    params<dense, double> plain;
    copy_matching(w, plain);
    auto last = plain.read("1.1.1.1.down");
    last[3] += 1;
    plain.write("1.1.1.1.down", last);
    const auto before = plain;
    CHECK_THROWS_WITH(merge(w, plain), Contains("1.1.1.1.down"));
    for (const auto& info : params<dense, double>::tensors()) CHECK(plain.read(info) == before.read(info));
    params<stack<linear<6, 16, bias::with>>, double> other;
    CHECK_THROWS_AS(merge(w, other), error);
}

TEST_CASE("merge: ranks kept of earlier tasks are merged with the new ones", "[transform][lora]") {
    constexpr adapter_spec next{.rank = 2, .alpha = 5, .kept_ranks = 3};
    const auto w = mox_test::random_params<lora<linear<7, 9>, next>, double>(4);
    params<linear<7, 9>, double> plain;
    copy_matching(w, plain);
    const auto before = plain.read("weight");
    CHECK(merge(w, plain) == 1);
    const auto x = normal_numbers<double>(7 * 5, 1);
    tape<linear<7, 9>, double> t;
    tape<lora<linear<7, 9>, next>, double> u;
    const auto rows = batch::equal(1, 5);
    CHECK(distance(run_forward(plain, x, rows, t), run_forward(w, x, rows, u)) < 1e-13);
    CHECK(unmerge(w, plain) == 1);
    CHECK(plain.read("weight") == before);
}

TEST_CASE("merge: magnitudes scale the map and its bias", "[transform][lora]") {
    using scaled =
        stack<dora<linear<7, 9, bias::with>, rank3>, residual<rms_norm<9>, dora<linear<9, 9>, rank3>>,
              lora<linear<9, 4, bias::with>, rank3>>;
    using flat =
        stack<linear<7, 9, bias::with>, residual<rms_norm<9>, linear<9, 9>>, linear<9, 4, bias::with>>;
    const auto w = mox_test::random_params<scaled, double>(4, 0.5);
    params<flat, double> to;
    copy_matching(w, to);
    const auto before = to;
    // Two maps and a bias with magnitudes, one map without.
    CHECK(merge(w, to) == 4);
    const auto rows = batch::equal(1, 5);
    const auto x = normal_numbers<double>(7 * 5, 1);
    tape<flat, double> t;
    tape<scaled, double> u;
    const auto y = run_forward(w, x, rows, u);
    CHECK(distance(run_forward(to, x, rows, t), y) < 1e-12);
    CHECK(distance(run_forward(before, x, rows, t), y) > 1e-3);
    CHECK_THROWS_WITH(merge(w, to), Contains("merged already"));
    // Merged, an output has the magnitude as its norm.
    const auto m = w.read("0.magnitude"), weight = to.read("0.weight");
    for (std::size_t o = 0; o < 9; ++o) {
        double square = 0;
        for (std::size_t i = 0; i < 7; ++i) square += weight[i * 9 + o] * weight[i * 9 + o];
        CHECK(std::sqrt(square) == Approx(std::abs(m[o])).epsilon(1e-13));
    }
    CHECK(unmerge(w, to) == 4);
    for (const auto& info : params<flat, double>::tensors()) CHECK(to.read(info) == before.read(info));
    // One layer by itself, in float.
    using one = dora<linear<7, 9>, rank3>;
    const auto v = mox_test::random_params<one, float>(6);
    params<linear<7, 9>, float> alone;
    copy_matching(v, alone);
    CHECK(merge(v, alone) == 1);
    const auto z = normal_numbers<float>(7 * 5, 1);
    tape<linear<7, 9>, float> a;
    tape<one, float> b;
    CHECK(distance(run_forward(alone, z, rows, a), run_forward(v, z, rows, b)) < 1e-5);
}

TEST_CASE("golden: merged and unmerged lora", "[golden][transform]") {
    using layer = lora<linear<12, 9, bias::with>, mox_test::spec<4>(8)>;
    mox_test::adapter_case<layer, double> r("lora-basic");
    params<linear<12, 9, bias::with>, double> plain;
    copy_matching(r.weights, plain);
    CHECK(merge(r.weights, plain) == 1);
    CHECK(distance(plain.read("weight"), mox_test::transposed(r.file.tensor("out.W_merged"))) < 1e-13);
    tape<linear<12, 9, bias::with>, double> t;
    CHECK(distance(run_forward(plain, r.x, r.rows, t), r.file.tensor("out.y_merged").values) < 1e-13);
    unmerge(r.weights, plain);
    CHECK(distance(plain.read("weight"), mox_test::transposed(r.file.tensor("out.W_unmerged"))) < 1e-13);
}

namespace {

// The merged network computes the same, and unmerge gives the base back.
template <class Plain, class Adapted>
void check_merge(index_t tensors) {
    const auto w = mox_test::random_params<Adapted, double>(4, 0.3);
    params<Plain, double> merged;
    copy_matching(w, merged);
    const auto before = merged;
    CHECK(merge(w, merged) == tensors);
    const auto rows = batch::ragged({4, 0, 7});
    const auto x = normal_numbers<double>(66, 1);
    tape<Plain, double> t;
    tape<Adapted, double> u;
    const auto y = run_forward(w, x, rows, u);
    CHECK(distance(run_forward(merged, x, rows, t), y) < 1e-12);
    CHECK(distance(run_forward(before, x, rows, t), y) > 1e-3);
    CHECK_THROWS_WITH(merge(w, merged), Contains("merged already"));
    CHECK(unmerge(w, merged) == tensors);
    CHECK(std::equal(merged.flat().begin(), merged.flat().end(), before.flat().begin()));
}

}  // namespace

TEST_CASE("merge: a choice of all ranks, and adapters that are observed", "[transform][lora]") {
    using plain = stack<linear<6, 16>, attend<as_they_are>>;
    using whole =
        stack<lora<linear<6, 16>, rank3, rank_gate::strongest<3>>, attend<as_observed<with_lora<rank3>>>>;
    check_merge<plain, whole>(3);
}

TEST_CASE("merge: updates of each expert of a mixture", "[transform][lora]") {
    using gated = swiglu<16, 9>;
    using two_maps = mlp<16, 5, activation::relu, bias::with>;
    using plain = stack<linear<6, 16>, residual<moe<experts<3, gated>, route::top_k<2>>>,
                        repeat<2, residual<moe<experts<4, two_maps>, route::top_k<1>>>>>;
    using whole = stack<lora<linear<6, 16>, rank3>,
                        residual<observed<moe<experts<3, lora_expert<gated, rank3>>, route::top_k<2>>>>,
                        repeat<2, residual<moe<experts<4, lora_expert<two_maps, rank3>>, route::top_k<1>,
                                               route::frozen_linear_scorer>>>>;
    check_merge<plain, whole>(1 + 2 + 4);
}

TEST_CASE("merge: into a network with layers that only wrap another one", "[transform][lora]") {
    using bank = moe<experts<3, swiglu<16, 9>>, route::top_k<2>, shared<frozen<linear<16, 16>>>>;
    using adapted_bank = moe<experts<3, lora_expert<swiglu<16, 9>, rank3>>, route::top_k<2>,
                             shared<lora<linear<16, 16>, rank3>>>;
    using plain = stack<observed<linear<6, 16>>, depth<residual<bank>, route::learned, keep_permille<500>>,
                        frozen<attend<as_they_are>>>;
    using whole =
        stack<lora<linear<6, 16>, rank3>, depth<residual<adapted_bank>, route::learned, keep_permille<500>>,
              frozen<attend<with_lora<rank3>>>>;
    check_merge<plain, whole>(1 + 2 + 1 + 2);
    // Nothing is written when one of the maps differs.
    const auto w = mox_test::random_params<whole, double>(4, 0.3);
    params<plain, double> to;
    copy_matching(w, to);
    auto down = to.read("1.0.0.down");
    down[3] += 1;
    to.write("1.0.0.down", down);
    const std::vector<double> before(to.flat().begin(), to.flat().end());
    CHECK_THROWS_WITH(merge(w, to), Contains("tensor '1.0.0.down' of the target"));
    CHECK(std::equal(before.begin(), before.end(), to.flat().begin()));
    params<linear<6, 16>, double> other;
    CHECK_THROWS_WITH(merge(w, other), Contains("the target has no tensor"));
}
