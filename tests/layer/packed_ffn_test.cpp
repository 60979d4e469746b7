#include <mox/layer/packed_ffn.hpp>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/formats.hpp"

using namespace mox;
using namespace mox_test;

namespace {

template <class F>
using gated = moe<experts<5, swiglu<24, 37, F>>, route::top_k<2>, null_experts<1>, shared<swiglu<24, 16, F>>>;
template <class F>
using plain = moe<experts<4, mlp<24, 70, activation::gelu, bias::with, F>>, route::top_k<2>>;

}  // namespace

TEST_CASE("packed experts: forward and backward of the widened weights", "[layer][packed]") {
    for_each_format([](auto format) {
        using F = decltype(format);
        INFO(F::name);
        const auto a = gradcheck<gated<F>>();
        INFO(a.message);
        CHECK(a.passed);
        const auto b = gradcheck<plain<F>>();
        INFO(b.message);
        CHECK(b.passed);
        const auto c = gradcheck<swiglu<9, 17, F>>();
        CHECK(c.passed);
    });
}

TEST_CASE("packed experts: the training forward is that of the widened network", "[layer][packed]") {
    for_each_format([](auto format) {
        using F = decltype(format);
        const params<plain<F>> w{init::standard, 3};
        params<plain<weight::f32>> wide;
        copy_matching(w, wide);
        const auto x = normal_numbers<float>(13 * 24, 5);
        tape<plain<F>> t;
        tape<plain<weight::f32>> u;
        const auto y = forward<plain<F>>(w, {x.data(), 13, 24}, t);
        const auto z = forward<plain<weight::f32>>(wide, {x.data(), 13, 24}, u);
        for (index_t i = 0; i < 13; ++i) {
            for (index_t j = 0; j < 24; ++j) CHECK(std::abs(y(i, j) - z(i, j)) < 1e-5f);
        }
    });
}

TEST_CASE("packed experts: exact rows infer what training computes", "[layer][packed]") {
    using F = weight::int8<weight::rows::exact>;
    const params<gated<F>> w{init::standard, 3};
    const auto x = normal_numbers<float>(13 * 24, 5);
    tape<gated<F>> t;
    const auto trained = flat<float>(forward<gated<F>>(w, {x.data(), 13, 24}, t));
    CHECK(flat<float>(infer<gated<F>>(w, {x.data(), 13, 24}, t)) == trained);
}

TEST_CASE("packed experts: a token's result does not depend on its company", "[layer][packed]") {
    for_each_format([](auto format) {
        using net = gated<decltype(format)>;
        const params<net> w{init::standard, 3};
        const auto x = normal_numbers<float>(50 * 24, 5);
        tape<net> t;
        const auto all = flat<float>(infer<net>(w, {x.data(), 50, 24}, t));
        for (const index_t i : {0, 17, 49}) {
            const auto one = flat<float>(infer<net>(w, {x.data() + i * 24, 1, 24}, t));
            CHECK(std::equal(one.begin(), one.end(), all.begin() + i * 24));
        }
    });
}
