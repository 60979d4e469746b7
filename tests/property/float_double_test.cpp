// The same network in float and in double, far apart only by rounding.

#include <algorithm>
#include <cmath>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;

constexpr index_t D = 32, V = 50;
constexpr mox::attention_spec heads{.width = D, .heads = 4, .kv_heads = 2};
using attend = mox::residual<mox::rms_norm<D>, mox::attention<heads>>;
using mix =
    mox::residual<mox::rms_norm<D>, mox::moe<mox::experts<4, mox::swiglu<D, 48>>, mox::route::top_k<2>,
                                             mox::balance::load<>, mox::balance::z_loss<>>>;
using block = mox::stack<attend, mix>;
using deep = mox::stack<mox::embedding<V, D>, mox::repeat<12, block>,
                        mox::depth<block, mox::route::learned, mox::keep_permille<500>>, mox::rms_norm<D>,
                        mox::linear<D, V>>;

template <class T>
struct result {
    values::matrix<T> logits;
    T loss = 0, aux = 0;
    mox::params<deep, T> grads;
    std::vector<mox::row_t> routing;
};

template <class T>
result<T> run(const mox::params<deep, T>& w) {
    result<T> r;
    mox::tape<deep, T> tape;
    const mox::batch rows = mox::batch::ragged({40, 25, 1});
    const auto ids = values::ids(rows.rows(), V, 1), targets = values::ids(rows.rows(), V, 2);
    const auto y = mox::forward<deep>(w, ids, rows, tape);
    r.logits = values::copy(y);
    for (const auto& log : tape.routing()) {
        if (log.chosen) r.routing.insert(r.routing.end(), log.chosen, log.chosen + log.rows * log.slots);
        if (log.selected) r.routing.insert(r.routing.end(), log.selected, log.selected + log.selected_count);
    }
    r.loss = mox::cross_entropy<T>(y, targets, tape.output_grad());
    r.aux = tape.aux_loss();
    mox::backward<deep>(w, tape, r.grads);
    return r;
}

}  // namespace

// Bound: rounding of 2^-24 grows by the length of sums (at most 66 tokens x 48 values, as a random walk about
// 56) and by 27 residual additions: 6e-8 * 56 * 27 = 9e-5 of the largest value. Where the two choose the same
// experts, they must agree within twice that.
TEST_CASE("float agrees with double on a deep network", "[property][float_double]") {
    constexpr double bound = 2e-4;
    const mox::params<deep, double> wd{mox::init::standard, 11};
    mox::params<deep, float> wf;
    const auto td = mox::params<deep, double>::tensors();
    const auto tf = mox::params<deep, float>::tensors();
    REQUIRE(td.size() == tf.size());
    mox::params<deep, double> rounded;  // the double network with the float weights
    for (std::size_t i = 0; i < td.size(); ++i) {
        REQUIRE(td[i].path == tf[i].path);
        std::vector<float> v;
        std::vector<double> back;
        for (const double x : wd.read(td[i])) {
            v.push_back(static_cast<float>(x));
            back.push_back(static_cast<double>(v.back()));
        }
        wf.write(tf[i], v);
        rounded.write(td[i], back);
    }
    const auto d = run(rounded);
    const auto f = run(wf);
    REQUIRE(d.routing.size() > 1000);
    REQUIRE(f.routing == d.routing);

    const auto compare = [&](const auto& a, const auto& b) {
        double worst = 0, largest = 0;
        for (std::size_t i = 0; i < a.size(); ++i) {
            const double x = static_cast<double>(a[i]), y = b[i];
            worst = std::max(worst, std::isnan(x - y) ? HUGE_VAL : std::abs(x - y));
            largest = std::max(largest, std::abs(y));
        }
        REQUIRE(largest > 0);
        CHECK(worst <= bound * largest);
        return worst;
    };
    // Not the same numbers by accident: float really rounds.
    REQUIRE(compare(f.logits.v, d.logits.v) > 0);
    REQUIRE(std::abs(static_cast<double>(f.loss) - d.loss) < bound * d.loss);
    REQUIRE(std::abs(static_cast<double>(f.aux) - d.aux) < bound * d.aux);
    for (std::size_t i = 0; i < td.size(); ++i) {
        INFO(td[i].path);
        compare(f.grads.read(tf[i]), d.grads.read(td[i]));
    }
}
