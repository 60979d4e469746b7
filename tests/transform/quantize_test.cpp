#include <mox/transform/quantize.hpp>

#include <cstring>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/formats.hpp"
#include "../support/values.hpp"

using namespace mox;
using namespace mox_test;
using Catch::Matchers::Contains;

namespace {

constexpr attention_spec heads{.width = 48, .heads = 4, .kv_heads = 2};
constexpr adapter_spec r4{.rank = 4, .alpha = 8};
using mixture = moe<experts<6, swiglu<48, 40>>, route::top_k<2>, null_experts<1>, balance::load<>,
                    shared<swiglu<48, 24>>>;
using block = stack<residual<rms_norm<48>, attention<heads>>, residual<layer_norm<48>, mixture>>;
using net = stack<embedding<70, 48>,
                  repeat<2, stack<block, depth<residual<mlp<48, 33, activation::gelu, bias::with>>,
                                               route::learned, keep_permille<500>, sampling::threshold>>>,
                  frozen<rms_norm<48>>, linear<48, 70, bias::with>>;

// The map of a network: its logits.
template <class Net, class T>
values::matrix<T> logits(const params<Net, T>& w, const std::vector<row_t>& ids, executor_ref exec = {}) {
    tape<Net, T> t(exec);
    return values::copy(infer<Net, T>(w, ids, batch::ragged({9, 0, 1, 14}), t));
}

}  // namespace

TEST_CASE("with_weights rewrites every map and nothing else", "[transform][quantize]") {
    using small = with_weights<net, weight::bf16>;
    const auto before = params<net>::tensors(), after = params<small>::tensors();
    REQUIRE(before.size() == after.size());
    std::size_t packed = 0;
    for (std::size_t i = 0; i < before.size(); ++i) {
        CHECK(before[i].path == after[i].path);
        CHECK(before[i].spec.logical_size() == after[i].spec.logical_size());
        const bool panels =
            before[i].spec.form == storage::panels || before[i].spec.form == storage::gated_panels;
        const bool router = before[i].path.find("router") != std::string::npos ||
                            before[i].path.find("score") != std::string::npos;
        CAPTURE(before[i].path);
        CHECK((after[i].spec.packing != nullptr) == (panels && !router));
        packed += after[i].spec.packing ? 1 : 0;
        if (after[i].spec.packing) CHECK(!after[i].spec.trained);
    }
    CHECK(packed == 2 * 8 + 1);
    static_assert(std::is_same_v<with_weights<net, weight::f32>, net>);
    static_assert(std::is_same_v<with_weights<rms_norm<8>, weight::bf16>, rms_norm<8>>);
    static_assert(std::is_same_v<with_weights<swiglu<8, 4>, weight::int8<>>, swiglu<8, 4, weight::int8<>>>);
    static_assert(std::is_same_v<with_weights<lora<linear<8, 4>, r4>, weight::int4<>>,
                                 lora<linear<8, 4, bias::none, false, weight::int4<>>, r4>>);
}

TEST_CASE("packed networks have no gradients and no moments for their maps", "[transform][quantize]") {
    using small = with_weights<stack<linear<64, 32, bias::with>, swiglu<32, 48>>, weight::int8<>>;
    CHECK(params<small>::trained_count() == 0);
    CHECK(params<small>().flat().empty());
    const auto s = describe<small>();
    CHECK(s.parameters == 64 * 32 + 32 + 3 * 32 * 48);
    CHECK(s.bytes < 2 * s.parameters);
    CHECK(s.bytes > s.parameters);
    CHECK(to_string(s).find(std::to_string(s.bytes)) != std::string::npos);
    CHECK(describe<stack<linear<64, 32>>>().bytes == 64 * 32 * 4);
}

TEST_CASE("quantize copies everything and reports what it did", "[transform][quantize]") {
    const params<net> trained{init::standard, 3};
    for_each_format([&](auto format) {
        using F = decltype(format);
        using small = with_weights<net, F>;
        params<small> packed;
        const auto report = quantize(trained, packed);
        CHECK(report.size() == 17);
        for (const auto& t : report) {
            CHECK(t.format == F::name);
            CHECK(t.bytes_before > 0);
            CHECK(t.largest_error > 0);
            CHECK(t.largest_error < 0.15);
            CHECK(t.mean_square_error <= t.largest_error * t.largest_error);
        }
        for (const char* path : {"0.table", "1.0.0.1.1.router", "3.bias"})
            CHECK(packed.read(path) == trained.read(path));
        // What was packed reads back as what it stands for; packing that again is exact but for int4, whose
        // largest code need not be in use.
        params<net> wide;
        copy_matching(packed, wide);
        const auto w = wide.read("3.weight"), v = packed.read("3.weight");
        CHECK(w == v);
    });
}

TEST_CASE("quantize refuses another network", "[transform][quantize]") {
    const params<stack<linear<8, 8>>> from{init::standard, 1};
    params<stack<linear<8, 8, bias::with, false, weight::bf16>>> other;
    CHECK_THROWS_WITH(quantize(from, other), Contains("bias") && Contains("no counterpart"));
    CHECK(!other.complete());  // nothing was written
    params<stack<linear<8, 9, bias::none, false, weight::bf16>>> wider;
    CHECK_THROWS_WITH(quantize(from, wider), Contains("same shape"));
}

TEST_CASE("packed networks: float is close to double, which runs on the plain twin",
          "[transform][quantize]") {
    const auto ids = values::ids(24, 70, 5);
    const params<net> trained{init::standard, 3};
    const auto exact = logits<net, float>(trained, ids);
    for_each_format([&](auto format) {
        using small = with_weights<net, decltype(format)>;
        params<small> packed;
        params<small, double> wide;
        quantize(trained, packed);
        quantize(trained, wide);
        const auto y = logits<small, float>(packed, ids);
        const auto z = logits<small, double>(wide, ids);
        double worst = 0, mean = 0, size = 0;
        for (index_t i = 0; i < y.rows(); ++i) {
            for (index_t j = 0; j < y.cols(); ++j) {
                const double d = std::abs(double(y(i, j)) - z(i, j));
                worst = std::max(worst, d);
                mean += d / static_cast<double>(y.v.size());
                size = std::max(size, std::abs(z(i, j)));
            }
        }
        CAPTURE(decltype(format)::name, worst, mean, size);
        // Rounding a row is not continuous: a difference of one float moves a code by one now and then.
        CHECK(mean < 2e-3 * size);
        CHECK(worst < 5e-2 * size);
        // Four bits change the choice of experts of such a small random network.
        if constexpr (!requires { decltype(format)::padded_group; })
            CHECK(values::largest_difference(y, exact) < 0.6 * size);
    });
}

TEST_CASE("packed networks: the same bits for any number of threads", "[transform][quantize]") {
    const auto ids = values::ids(24, 70, 5);
    const params<net> trained{init::standard, 3};
    thread_pool two(2), five(5);
    for_each_format([&](auto format) {
        using small = with_weights<net, decltype(format)>;
        params<small> packed;
        quantize(trained, packed);
        const auto y = logits<small, float>(packed, ids);
        CHECK(logits<small, float>(packed, ids, two) == y);
        CHECK(logits<small, float>(packed, ids, five) == y);
    });
}

TEST_CASE("packed networks decode what they infer", "[transform][quantize]") {
    const auto ids = values::ids(12, 70, 6);
    const params<net> trained{init::standard, 3};
    for_each_format([&](auto format) {
        using small = with_weights<net, decltype(format)>;
        params<small> packed;
        quantize(trained, packed);
        tape<small> t;
        const auto whole = values::copy(infer<small>(packed, ids, t));
        stream<small> s(12);
        for (index_t i = 0; i < 12; ++i) {
            const auto y = decode<small>(packed, token_ids(ids).subspan(static_cast<std::size_t>(i), 1), s);
            for (index_t j = 0; j < y.cols; ++j) CHECK(std::abs(y(0, j) - whole(i, j)) < 2e-2f);
        }
    });
}

TEST_CASE("adapters train on packed weights", "[transform][quantize]") {
    constexpr attention_spec small_heads{.width = 16, .heads = 2};
    using dense = stack<residual<rms_norm<16>, attention<small_heads, mask::causal, with_lora<r4>>>,
                        residual<adapted_ffn<16, 12, activation::silu, with_lora<r4>>>,
                        lora_experts<linear<16, 16>, 3, r4, route::top_k<2>>,
                        moe<experts<3, mlp<16, 9, activation::gelu, bias::with>>, route::top_k<2>>,
                        lora<linear<16, 5, bias::with>, r4>>;
    for_each_format([&](auto format) {
        using qlora = with_weights<dense, decltype(format)>;
        const auto r = gradcheck<qlora>({}, batch::ragged({5, 1, 4}));
        INFO(decltype(format)::name << ": " << r.message);
        CHECK(r.passed);
    });
    // The base stays as it was, bit for bit, and the loss falls.
    using qlora = with_weights<dense, weight::int4<>>;
    params<qlora> weights{init::standard, 3}, grads;
    const std::vector<float> before(weights.frozen().begin(), weights.frozen().end());
    tape<qlora> t;
    adamw<qlora> adam{{.rate = 1e-2}};
    const auto x = normal_numbers<float>(10 * 16, 4);
    const std::vector<row_t> targets = values::ids(10, 5, 8);
    float first = 0, last = 0;
    for (int step = 0; step < 30; ++step) {
        const auto y = forward<qlora>(weights, {x.data(), 10, 16}, t);
        last = cross_entropy<float>(y, targets, t.output_grad());
        if (step == 0) first = last;
        backward<qlora>(weights, t, grads);
        adam.step(weights, grads);
    }
    CHECK(last < 0.7f * first);
    CHECK(std::memcmp(before.data(), weights.frozen().data(), before.size() * sizeof(float)) == 0);
}
