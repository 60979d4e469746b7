#include <mox/model/trainable_mask.hpp>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <mox/compose/repeat.hpp>
#include <mox/compose/residual.hpp>
#include <mox/compose/stack.hpp>
#include <mox/exec/thread_pool.hpp>
#include <mox/layer/attention.hpp>
#include <mox/layer/frozen.hpp>
#include <mox/layer/moe.hpp>
#include <mox/layer/norm.hpp>
#include <mox/model/run.hpp>
#include <mox/train/adamw.hpp>
#include <mox/train/block_schedule.hpp>
#include <mox/train/clip.hpp>
#include <mox/train/gradcheck.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using Catch::Matchers::Contains;
using mox::index_t;

constexpr mox::attention_spec heads{.width = 8, .heads = 2};
using inner = mox::residual<mox::linear<8, 8, mox::bias::with>>;
using block = mox::stack<
    mox::residual<mox::rms_norm<8>, mox::attention<heads, mox::mask::causal>>,
    mox::residual<mox::layer_norm<8>, mox::moe<mox::experts<3, mox::swiglu<8, 5>>, mox::route::top_k<2>>>,
    mox::repeat<2, inner>>;
using single = mox::repeat<1, mox::mlp<8, 6, mox::activation::gelu, mox::bias::with>>;
// Four blocks: three of a repeat that holds another one, one by itself. What is frozen is none.
using net = mox::stack<mox::linear<5, 8>, mox::frozen<mox::repeat<2, inner>>, mox::repeat<3, block>,
                       mox::residual<mox::rms_norm<8>, single>, mox::linear<8, 7>>;
using mask_t = mox::trainable_mask<net, double>;
constexpr index_t rows = 9;

struct fixture {
    mox::params<net, double> weights{mox::init::standard, 3}, grads;
    mox::tape<net, double> tape;
    values::matrix<double> x = values::normal<double>(rows, 5, 1), dy = values::normal<double>(rows, 7, 2);
    values::matrix<double> dx{rows, 5}, y;

    mox::matrix_view<double> dx_view() { return {dx.data(), rows, 5}; }
    void forward() {
        y = values::copy(mox::forward<net>(weights, mox::matrix_view<const double>{x.data(), rows, 5}, tape));
        values::assign(tape.output_grad(), dy);
    }
    std::vector<double> gradients() const { return {grads.flat().begin(), grads.flat().end()}; }
};

std::vector<double> copy(std::span<const double> s) { return {s.begin(), s.end()}; }

bool same(const double* a, const double* b, index_t size) {
    return std::memcmp(a, b, static_cast<std::size_t>(size) * sizeof(double)) == 0;
}

// Whether every number of the network lies in a masked block.
std::vector<bool> masked(const mask_t& mask) {
    std::vector<bool> m(static_cast<std::size_t>(mox::parameter_extent<net, double>().trained));
    for (const auto& r : mask.ranges()) {
        for (index_t i = r.begin; i < r.end; ++i) m[static_cast<std::size_t>(i)] = !r.trains;
    }
    return m;
}

constexpr double sentinel = 12345.678;

}  // namespace

TEST_CASE("blocks are the repetitions of the outermost repeats", "[train][trainable_mask]") {
    STATIC_REQUIRE(mox::block_count<net>() == 4);
    mask_t mask;
    REQUIRE(mask.active() == 4);
    // The tensors that the paths name.
    for (const auto& t : mox::params<net, double>::tensors()) {
        if (!t.spec.trained) continue;
        index_t owner = -1;
        for (std::size_t b = 0; b < 4; ++b) {
            if (t.offset >= mask.ranges()[b].begin && t.offset < mask.ranges()[b].end)
                owner = static_cast<index_t>(b);
        }
        index_t want = -1;
        if (t.path.rfind("2.", 0) == 0) want = t.path[2] - '0';
        if (t.path.rfind("3.1.", 0) == 0) want = 3;
        INFO(t.path);
        REQUIRE(owner == want);
    }
    mask.only(std::vector<index_t>{2, 0});
    REQUIRE((mask.trains(0) && !mask.trains(1) && mask.trains(2) && !mask.trains(3)));
    mask.set(2, false);
    REQUIRE(mask.active() == 1);
    mask.all();
    REQUIRE(mask.active() == 4);
    REQUIRE_THROWS_WITH(mask.only(std::vector<index_t>{1, 4}), Contains("blocks from 0 to 3, got 4"));
    REQUIRE(mask.active() == 4);
    REQUIRE_THROWS_WITH(mask.set(-1, true), Contains("blocks from 0 to 3, got -1"));
    REQUIRE_THROWS_WITH(mask.trains(9), Contains("got 9"));
}

TEST_CASE("the network's gradients are right", "[train][trainable_mask][gradcheck]") {
    mox::gradcheck_options options;
    options.tokens = rows;
    REQUIRE(mox::gradcheck<net>(options).worst() < 1e-7);
}

TEST_CASE("masked blocks get no gradient, everything else the same bits", "[train][trainable_mask]") {
    fixture all;
    all.forward();
    mox::backward<net>(all.weights, all.tape, all.grads, all.dx_view());
    const auto want = all.gradients();

    for (const std::vector<index_t>& active : {std::vector<index_t>{}, {0}, {1, 3}, {2}, {0, 1, 2, 3}}) {
        mask_t mask;
        mask.only(active);
        const auto without = masked(mask);
        for (const bool input : {true, false}) {
            fixture f;
            f.forward();
            REQUIRE(f.y == all.y);
            for (double& g : f.grads.flat()) g = sentinel;
            mox::thread_pool pool(3);
            if (!input) f.tape.use(pool);
            if (input) {
                mox::backward<net>(f.weights, f.tape, f.grads, mask, f.dx_view());
                REQUIRE(f.dx == all.dx);
            } else {
                mox::backward<net>(f.weights, f.tape, f.grads, mask);
            }
            for (const auto& t : mox::params<net, double>::tensors()) {
                if (!t.spec.trained) continue;
                const bool out = without[static_cast<std::size_t>(t.offset)];
                const auto got = f.grads.read(t);
                INFO(t.path);
                if (out) {
                    REQUIRE(got == std::vector<double>(got.size(), sentinel));
                } else {
                    REQUIRE(values::same_bits(got, all.grads.read(t)));
                }
            }
            // Padding too: a masked block's memory is not written at all.
            for (std::size_t i = 0; i < without.size(); ++i) {
                if (without[i]) REQUIRE(f.grads.flat()[i] == sentinel);
            }
        }
    }
}

TEST_CASE("accumulating leaves masked blocks alone", "[train][trainable_mask]") {
    fixture f;
    mask_t mask;
    mask.only(std::vector<index_t>{1});
    f.forward();
    mox::backward<net>(f.weights, f.tape, f.grads);
    const auto once = f.gradients();
    f.forward();
    mox::backward_accumulate<net>(f.weights, f.tape, f.grads, mask);
    const auto without = masked(mask);
    const auto now = f.gradients();
    for (std::size_t i = 0; i < now.size(); ++i) {
        REQUIRE(now[i] == Approx(without[i] ? once[i] : 2 * once[i]).epsilon(1e-12).margin(1e-14));
    }
}

TEST_CASE("norm and clipping do not see masked blocks", "[train][trainable_mask][clip]") {
    fixture f;
    f.forward();
    mask_t mask;
    mox::backward<net>(f.weights, f.tape, f.grads);
    REQUIRE(mox::global_norm(f.grads, mask) == mox::global_norm(f.grads));
    mask.only(std::vector<index_t>{1, 3});
    const auto without = masked(mask);
    double sum = 0;
    for (std::size_t i = 0; i < without.size(); ++i) {
        double& g = f.grads.flat()[i];
        if (without[i]) g = std::numeric_limits<double>::quiet_NaN();
        if (!without[i]) sum += g * g;
    }
    const auto before = f.gradients();
    const double norm = mox::clip_by_global_norm(f.grads, mask, 0.25 * std::sqrt(sum));
    REQUIRE(norm == Approx(std::sqrt(sum)).epsilon(1e-13));
    REQUIRE(mox::global_norm(f.grads, mask) == Approx(0.25 * norm).epsilon(1e-13));
    mox::thread_pool pool(3);
    REQUIRE(mox::global_norm(f.grads, mask, pool) == mox::global_norm(f.grads, mask));
    for (std::size_t i = 0; i < without.size(); ++i) {
        if (without[i]) REQUIRE(same(&before[i], &f.grads.flat()[i], 1));
    }
    const auto clipped = f.gradients();
    REQUIRE(mox::clip_by_global_norm(f.grads, mask, 1e9) == Approx(0.25 * norm).epsilon(1e-13));
    REQUIRE(same(clipped.data(), f.grads.flat().data(), static_cast<index_t>(clipped.size())));
    REQUIRE_THROWS_WITH(mox::clip_by_global_norm(f.grads, mask, 0.0), Contains("'limit' must be positive"));
}

TEST_CASE("a masked block keeps weights, moments and number of steps", "[train][trainable_mask][adamw]") {
    const mox::adamw_options options{.rate = 0.01, .beta1 = 0.8, .beta2 = 0.9, .decay = 0.3};
    fixture f;
    mox::adamw<net, double> adam(options), threaded(options);
    auto other = f.weights;
    // For each block, an optimiser without masks that makes only the steps that train the block.
    std::vector<mox::adamw<net, double>> alone(4, mox::adamw<net, double>(options));
    std::vector<mox::params<net, double>> want(4, f.weights);
    auto draw = mox::schedule::lisa(mask_t::blocks, {.active = 2, .interval = 3}, 8);
    mox::thread_pool pool(3);
    mask_t mask;
    std::vector<index_t> counted(4);
    for (index_t step = 0; step < 18; ++step) {
        mask.only(draw(step));
        REQUIRE(mask.active() == 2);
        std::uint64_t seed = 100 * static_cast<std::uint64_t>(step);
        for (const auto& t : mox::params<net, double>::tensors()) {
            if (t.spec.trained) f.grads.write(t, values::normal<double>(1, t.spec.logical_size(), seed++).v);
        }
        const auto w = copy(f.weights.flat()), m = copy(adam.first_moments()),
                   v = copy(adam.second_moments());
        const auto frozen = copy(f.weights.frozen());
        adam.step(f.weights, f.grads, mask, 0.5);
        threaded.step(other, f.grads, mask, 0.5, pool);
        REQUIRE(same(f.weights.flat().data(), other.flat().data(), static_cast<index_t>(w.size())));
        REQUIRE(frozen == copy(f.weights.frozen()));
        for (std::size_t b = 0; b < 4; ++b) {
            const auto& r = mask.ranges()[b];
            const index_t size = r.end - r.begin;
            const auto at = static_cast<std::size_t>(r.begin);
            if (r.trains) {
                alone[b].step(want[b], f.grads, 0.5);
                ++counted[b];
                REQUIRE_FALSE(same(&w[at], &f.weights.flat()[at], size));
            } else {
                REQUIRE(same(&w[at], &f.weights.flat()[at], size));
                REQUIRE(same(&m[at], &adam.first_moments()[at], size));
                REQUIRE(same(&v[at], &adam.second_moments()[at], size));
            }
            REQUIRE(same(&want[b].flat()[at], &f.weights.flat()[at], size));
            REQUIRE(adam.steps(static_cast<index_t>(b)) == counted[b]);
        }
        // Embedding and head move in every step.
        REQUIRE(w.front() != f.weights.flat().front());
        REQUIRE(f.weights.read("4.weight").back() != [&] {
            mox::params<net, double> old = f.weights;
            std::copy(w.begin(), w.end(), old.flat().begin());
            return old.read("4.weight").back();
        }());
    }
    REQUIRE(adam.steps() == 18);
    for (const index_t n : counted) REQUIRE((n > 0 && n < 18));
    REQUIRE_THROWS_WITH(adam.steps(4), Contains("must name a block"));
}
