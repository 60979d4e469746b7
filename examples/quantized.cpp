// A trained network with weights of fewer bits: one type and one call. A small mixture of experts learns to
// tell which of sixteen random prototypes a noisy vector came from; then its weights become bf16, int8 and
// int4. The table shows what that costs and what it gains. Speed is worth a look on larger networks only:
// weights of this one stay in the cache (sh bench/run.sh moe_formats).

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <vector>

#include <mox/mox.hpp>

namespace {

using mox::index_t;

constexpr index_t width = 128, classes = 16, rows = 256;
using net =
    mox::stack<mox::residual<mox::rms_norm<width>, mox::moe<mox::experts<8, mox::swiglu<width, 256>>,
                                                            mox::route::top_k<2>, mox::balance::load<>>>,
               mox::rms_norm<width>, mox::linear<width, classes>>;

// Rows near their prototypes, and which one each belongs to.
struct samples {
    std::vector<float> x;
    std::vector<mox::row_t> label;
    mox::matrix_view<const float> view() const { return {x.data(), rows, width}; }
};

samples draw(std::uint64_t seed) {
    const mox::random_stream prototypes(1, 0), noise(seed, 1);
    samples s;
    for (index_t i = 0; i < rows; ++i) {
        const auto c = static_cast<std::uint64_t>(i) * 7 % classes;
        s.label.push_back(static_cast<mox::row_t>(c));
        for (std::uint64_t j = 0; j < width; ++j) {
            const double far = 2 * noise.normal(static_cast<std::uint64_t>(i) * width + j);
            s.x.push_back(static_cast<float>(prototypes.normal(c * width + j) + far));
        }
    }
    return s;
}

struct outcome {
    std::vector<float> logits;
    double accuracy = 0, microseconds = 0;  ///< of one row alone
};

template <class Net>
outcome evaluate(const mox::params<Net>& weights, const samples& test) {
    mox::tape<Net> tape;
    outcome o;
    const auto y = mox::infer<Net>(weights, test.view(), tape);
    for (index_t i = 0; i < rows; ++i) {
        const auto best = std::max_element(y.row(i), y.row(i) + classes) - y.row(i);
        o.accuracy += best == test.label[static_cast<std::size_t>(i)] ? 1.0 / rows : 0.0;
        o.logits.insert(o.logits.end(), y.row(i), y.row(i) + classes);
    }
    const auto begin = std::chrono::steady_clock::now();
    constexpr int turns = 4;
    for (int turn = 0; turn < turns; ++turn) {
        for (index_t i = 0; i < rows; ++i) mox::infer<Net>(weights, test.view().middle_rows(i, 1), tape);
    }
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
    o.microseconds = 1e6 * time.count() / (turns * rows);
    return o;
}

template <class Format>
bool row(const mox::params<net>& trained, const samples& test, const outcome& exact) {
    using small = mox::with_weights<net, Format>;
    mox::params<small> weights;
    const auto report = mox::quantize(trained, weights);
    double weight_error = 0;
    for (const auto& tensor : report) weight_error = std::max(weight_error, tensor.largest_error);
    const outcome o = evaluate(weights, test);
    double error = 0;
    for (std::size_t i = 0; i < o.logits.size(); ++i)
        error = std::max(error, static_cast<double>(std::abs(o.logits[i] - exact.logits[i])));
    std::printf("%-6s %10lld %14.5f %14.4f %9.1f %% %11.2f x\n", Format::name.data(),
                static_cast<long long>(mox::describe<small>().bytes), weight_error, error, 100 * o.accuracy,
                exact.microseconds / o.microseconds);
    return o.accuracy > exact.accuracy - 0.1;
}

}  // namespace

int main() {
    mox::params<net> weights{mox::init::standard, 7}, grads;
    mox::tape<net> tape;
    mox::adamw<net> adam{{.rate = 3e-3}};
    for (std::uint64_t step = 0; step < 60; ++step) {
        const samples s = draw(100 + step);
        const auto logits = mox::forward<net>(weights, s.view(), tape);
        mox::cross_entropy<float>(logits, s.label, tape.output_grad());
        mox::backward<net>(weights, tape, grads);
        adam.step(weights, grads);
    }

    const samples test = draw(1);
    const outcome exact = evaluate(weights, test);
    double largest = 0;
    for (const float v : exact.logits) largest = std::max(largest, static_cast<double>(std::abs(v)));
    std::printf("%-6s %10s %14s %14s %11s %13s\n", "format", "bytes", "weight error", "logit error",
                "accuracy", "one row");
    std::printf("%-6s %10lld %14s %14s %9.1f %%   (logits up to %.1f)\n", "f32",
                static_cast<long long>(mox::describe<net>().bytes), "-", "-", 100 * exact.accuracy, largest);
    bool kept = row<mox::weight::bf16>(weights, test, exact);
    kept = row<mox::weight::int8<>>(weights, test, exact) && kept;
    kept = row<mox::weight::int4<>>(weights, test, exact) && kept;
    kept = row<mox::weight::int4<32, mox::weight::zero::moving>>(weights, test, exact) && kept;
    return kept && exact.accuracy > 0.8 ? 0 : 1;
}
