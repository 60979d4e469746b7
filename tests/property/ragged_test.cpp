// A ragged batch is its sequences, one after the other: nothing leaks from one to the next.

#include <vector>

#include <mox/compose/repeat.hpp>
#include <mox/compose/residual.hpp>
#include <mox/compose/stack.hpp>
#include <mox/layer/attention.hpp>
#include <mox/layer/depth.hpp>
#include <mox/layer/linear.hpp>
#include <mox/layer/moe.hpp>
#include <mox/layer/norm.hpp>
#include <mox/model/run.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;
using mox::row_t;

constexpr index_t D = 24, V = 30;
constexpr mox::attention_spec heads{.width = D, .heads = 4, .kv_heads = 2};
template <class Mask>
using attend = mox::residual<mox::rms_norm<D>, mox::attention<heads, Mask>>;
using mix =
    mox::residual<mox::layer_norm<D>, mox::moe<mox::experts<5, mox::swiglu<D, 20>>, mox::route::top_k<3>,
                                               mox::null_experts<2>, mox::shared<mox::swiglu<D, 12>>>>;
template <class Mask>
using block = mox::stack<attend<Mask>, mix>;

using net = mox::stack<mox::embedding<V, D>, block<mox::mask::causal>,
                       mox::depth<block<mox::mask::causal>, mox::route::learned, mox::keep_permille<400>>,
                       mox::rms_norm<D>, mox::linear<D, V>>;
using seeing =
    mox::stack<mox::embedding<V, D>, block<mox::mask::full>,
               mox::depth<block<mox::mask::full>, mox::route::attention_received, mox::keep_permille<400>>,
               mox::depth<mix, mox::route::attention_received, mox::keep_permille<250>>,
               mox::linear<D, V, mox::bias::with>>;

// Lengths around the sizes of tiles and blocks, with empty sequences at both ends and in the middle.
const std::vector<index_t> lengths{0, 1, 5, 0, 0, 6, 7, 48, 1, 49, 130, 2, 0};

template <class Net, class T>
void check_ragged() {
    const mox::params<Net, T> w{mox::init::standard, 2};
    const mox::batch rows = mox::batch::ragged(lengths);
    const auto ids = values::ids(rows.rows(), V, 5);
    const auto dy = values::normal<T>(rows.rows(), V, 6);
    mox::tape<Net, T> all, alone;
    const auto inferred = values::copy(mox::infer<Net>(w, ids, rows, all));
    const auto trained = values::copy(mox::forward<Net>(w, ids, rows, all));
    values::assign(all.output_grad(), dy);
    mox::params<Net, T> grads, sum, one;
    mox::backward<Net>(w, all, grads);

    index_t begin = 0;
    for (const index_t n : lengths) {
        INFO("sequence of " << n << " tokens from row " << begin);
        const auto mine =
            mox::token_ids(ids).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(n));
        REQUIRE(values::copy(mox::infer<Net>(w, mine, alone)) == values::middle(inferred, begin, n));
        REQUIRE(values::copy(mox::forward<Net>(w, mine, alone)) == values::middle(trained, begin, n));
        values::assign(alone.output_grad(), values::middle(dy, begin, n));
        mox::backward<Net>(w, alone, one);
        for (std::size_t i = 0; i < sum.flat().size(); ++i) sum.flat()[i] += one.flat()[i];
        begin += n;
    }
    REQUIRE(begin == rows.rows());

    // The gradient of a batch without auxiliary losses is the sum over its sequences, up to rounding.
    if constexpr (std::is_same_v<Net, seeing>) {
        const double bound = std::is_same_v<T, double> ? 1e-11 : 3e-4;
        for (const auto& t : mox::params<Net, T>::tensors()) {
            const auto a = grads.read(t), b = sum.read(t);
            double worst = 0, largest = 0;
            for (std::size_t i = 0; i < a.size(); ++i) {
                worst = std::max(worst, std::abs(static_cast<double>(a[i] - b[i])));
                largest = std::max(largest, std::abs(static_cast<double>(a[i])));
            }
            INFO(t.path);
            REQUIRE(worst <= bound * std::max(1.0, largest));
            REQUIRE(largest > 0);
        }
    }
}

}  // namespace

TEMPLATE_TEST_CASE("a ragged batch equals each sequence alone bit for bit", "[property][ragged]", float,
                   double) {
    check_ragged<net, TestType>();
    check_ragged<seeing, TestType>();
}

TEST_CASE("an empty batch and a batch of empty sequences run", "[property][ragged]") {
    const mox::params<net, float> w{mox::init::standard, 2};
    mox::params<net, float> g;
    mox::tape<net, float> tape;
    for (const mox::batch& rows :
         {mox::batch(), mox::batch::equal(0, 5), mox::batch::equal(3, 0), mox::batch::ragged({0, 0})}) {
        REQUIRE(rows.rows() == 0);
        REQUIRE(mox::infer<net>(w, std::vector<row_t>{}, rows, tape).rows == 0);
        for (float& x : g.flat()) x = 1;
        const auto y = mox::forward<net>(w, std::vector<row_t>{}, rows, tape);
        REQUIRE(y.rows == 0);
        REQUIRE(y.cols == V);
        REQUIRE(tape.aux_loss() == 0.0f);
        mox::backward<net>(w, tape, g);
        for (const auto& t : mox::params<net, float>::tensors()) {
            INFO(t.path);
            for (const float x : g.read(t)) REQUIRE(x == 0.0f);
        }
    }
}

TEST_CASE("equal lengths are ragged with equal lengths", "[property][ragged]") {
    const mox::params<net, float> w{mox::init::standard, 2};
    mox::tape<net, float> a, b;
    const auto ids = values::ids(33, V, 5);
    REQUIRE(values::copy(mox::forward<net>(w, ids, mox::batch::equal(3, 11), a)) ==
            values::copy(mox::forward<net>(w, ids, mox::batch::ragged({11, 11, 11}), b)));
    REQUIRE(a.aux_loss() == b.aux_loss());
    // And the cut matters: one sequence of 33 is something else.
    REQUIRE_FALSE(values::copy(mox::infer<net>(w, ids, mox::batch::equal(3, 11), a)) ==
                  values::copy(mox::infer<net>(w, ids, b)));
}
