#include <mox/layer/lora_pool.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using namespace mox_test;
using Catch::Matchers::Contains;

namespace {

using base = linear<7, 9, bias::with>;
template <index_t Rank>
inline constexpr adapter_spec rank{.rank = Rank, .alpha = 5};
template <index_t Rank>
using adapter = lora<base, rank<Rank>>;
using pool = lora_pool<base, pool_spec{.adapters = 4, .ranks = 11}>;

// Adapter 2 has rank 1, adapter 0 rank 6, adapter 3 rank 3; there is no adapter 1.
template <class T>
struct loaded {
    params<adapter<1>, T> one = random_params<adapter<1>, T>(1);
    params<adapter<6>, T> six = random_params<adapter<6>, T>(2);
    params<adapter<3>, T> three = random_params<adapter<3>, T>(3);
    params<pool, T> all{init::standard, 1};
    loaded() {
        for (const char* tensor : {"0.0.weight", "0.0.bias"}) {
            six.write(tensor, one.read(tensor));
            three.write(tensor, one.read(tensor));
            all.write(tensor, one.read(tensor));
        }
        load_adapter(one, all, 2);
        load_adapter(six, all, 0);
        load_adapter(three, all, 3);
    }
};

template <class T>
std::vector<T> rows_of(const std::vector<T>& m, index_t begin, index_t end, index_t cols) {
    return {m.begin() + begin * cols, m.begin() + end * cols};
}

const std::vector<index_t> lengths{4, 1, 0, 6, 3};
batch labelled() {
    auto rows = batch::ragged(lengths);
    rows.with_labels({3, 2, 0, 0, -1});
    return rows;
}

// Forward and backward of rows [begin, end) through an adapter alone, against the pool's.
template <class Net, class T>
void check_alone(const params<Net, T>& w, const std::vector<T>& x, const std::vector<T>& dy,
                 const std::vector<T>& y, const std::vector<T>& dx, const params<pool, T>& pool_gradients,
                 index_t begin, index_t end, index_t first_rank, index_t ranks) {
    tape<Net, T> t;
    params<Net, T> g;
    const auto part = rows_of(x, begin, end, 7);  // backward reads it again
    const auto alone = run_forward(w, part, batch::equal(1, end - begin), t);
    CHECK(distance(rows_of(y, begin, end, 9), alone) < 1e-13);
    const auto dx_alone = run_backward(w, rows_of(dy, begin, end, 9), t, g);
    CHECK(distance(rows_of(dx, begin, end, 7), dx_alone) < 1e-13);
    CHECK(distance(rows_of(pool_gradients.read("a"), first_rank, first_rank + ranks, 7), g.read("a")) <
          1e-13);
    CHECK(distance(rows_of(pool_gradients.read("b"), first_rank, first_rank + ranks, 9), g.read("b")) <
          1e-13);
}

}  // namespace

TEST_CASE("lora_pool: adapters of different ranks in one batch are each adapter alone", "[layer][lora]") {
    const loaded<double> w;
    const auto x = normal_numbers<double>(7 * 14, 1), dy = normal_numbers<double>(9 * 14, 2);
    tape<pool, double> t;
    params<pool, double> g;
    const auto y = run_forward(w.all, x, labelled(), t);
    const auto dx = run_backward(w.all, dy, t, g);
    CHECK(w.all.read("rank") == std::vector<double>{6, 0, 1, 3});
    CHECK(w.all.read("first") == std::vector<double>{1, 0, 0, 7});
    check_alone(w.three, x, dy, y, dx, g, 0, 4, 7, 3);
    check_alone(w.one, x, dy, y, dx, g, 4, 5, 0, 1);
    check_alone(w.six, x, dy, y, dx, g, 5, 11, 1, 6);
    // The last sequence has no adapter; the last rank has no owner.
    params<base, double> only;
    only.write("weight", w.one.read("0.0.weight"));
    only.write("bias", w.one.read("0.0.bias"));
    tape<base, double> u;
    CHECK(distance(rows_of(y, 11, 14, 9), run_forward(only, rows_of(x, 11, 14, 7), batch::equal(1, 3), u)) <
          1e-14);
    for (double v : rows_of(g.read("a"), 10, 11, 7)) CHECK(v == 0.0);
    CHECK(t.routing()[0].counts[0] == 6);
    CHECK(t.routing()[0].counts[3] == 4);
}

TEST_CASE("lora_pool: gradients", "[layer][lora]") {
    const auto r = gradcheck<pool>({}, labelled(), loaded<double>().all);
    INFO(r.message);
    CHECK(r.passed);
    CHECK(r.worst() < 1e-8);
    CHECK(params<pool>::trained_count() == 11 * 16);
}

TEST_CASE("lora_pool: says what is wrong with the labels", "[layer][lora]") {
    loaded<double> w;
    unload_adapter(w.all, 0);
    load_adapter(random_params<adapter<4>, double>(9), w.all, 1);
    const auto x = normal_numbers<double>(7 * 14, 1);
    tape<pool, double> t;
    CHECK_THROWS_WITH(run_forward(w.all, x, labelled(), t),
                      Contains("must hold ids of loaded adapters, or -1 for none; sequence 2 has 0"));
    auto rows = batch::ragged(lengths);
    CHECK_THROWS_WITH(run_forward(w.all, x, rows, t), Contains("the batch must have labels"));
    rows.with_labels({3, 2, 1, 4, 1});
    CHECK_THROWS_WITH(run_forward(w.all, x, rows, t), Contains("sequence 3 has 4"));
    rows.with_labels({3, 2, 1, -2, 1});
    CHECK_THROWS_WITH(run_forward(w.all, x, rows, t), Contains("sequence 3 has -2"));
}

TEST_CASE("lora_pool: a table from a bad file is refused", "[layer][lora]") {
    const auto x = normal_numbers<double>(7 * 14, 1);
    const auto refused = [&](const char* tensor, std::vector<double> values) {
        loaded<double> w;
        w.all.write(tensor, values);
        tape<pool, double> t;
        CHECK_THROWS_WITH(run_forward(w.all, x, labelled(), t), Contains("ranks of its own below 11"));
    };
    refused("rank", {6, 0, 1, 5});      // beyond the end
    refused("rank", {7, 0, 1, 3});      // shares a rank
    refused("rank", {6, 0, 0.5, 3});    // no whole number
    refused("rank", {6, 0, -1, 3});     // negative
    refused("rank", {6, 0, 1, 1e300});  // no index
    refused("first", {1, 0, std::nan(""), 7});
}

TEST_CASE("lora_pool: maps of a network, decoding with a label", "[layer][lora]") {
    constexpr attention_spec heads{.width = 8, .heads = 2};
    constexpr pool_spec room{.adapters = 3, .ranks = 8};
    using plain = stack<attention<heads, mask::causal>, linear<8, 5>>;
    using served = stack<attention<heads, mask::causal, with_lora_pool<room>>, lora_pool<linear<8, 5>, room>>;
    using small = stack<attention<heads, mask::causal, with_lora<rank<2>>>, lora<linear<8, 5>, rank<2>>>;
    using large = stack<attention<heads, mask::causal, with_lora<rank<5>>>, lora<linear<8, 5>, rank<5>>>;
    const auto trained = random_params<plain, double>(1);
    auto two = random_params<small, double>(2);
    auto five = random_params<large, double>(3);
    copy_matching(trained, two);
    copy_matching(trained, five);
    params<served, double> pool_weights{init::standard, 1};
    copy_matching(trained, pool_weights);
    const index_t pools = load_adapter(two, pool_weights, 1);
    CHECK(load_adapter(five, pool_weights, 0) == pools);
    CHECK(pools >= 3);

    auto rows = batch::equal(3, 6);
    rows.with_labels({0, -1, 1});
    const auto x = normal_numbers<double>(8 * 18, 1);
    tape<served, double> t;
    const auto y = run_forward(pool_weights, x, rows, t);
    tape<plain, double> p;
    tape<small, double> s;
    tape<large, double> l;
    const auto part = [&](index_t i) { return rows_of(x, 6 * i, 6 * i + 6, 8); };
    const auto one = batch::equal(1, 6);
    CHECK(distance(rows_of(y, 0, 6, 5), run_forward(five, part(0), one, l)) < 1e-12);
    CHECK(distance(rows_of(y, 6, 12, 5), run_forward(trained, part(1), one, p)) < 1e-12);
    CHECK(distance(rows_of(y, 12, 18, 5), run_forward(two, part(2), one, s)) < 1e-12);

    stream<served, double> past(8);
    const auto first = part(0);
    CHECK_THROWS_WITH(
        (decode<served, double>(pool_weights, matrix_view<const double>(first.data(), 1, 8), past)),
        Contains("must have labels"));
    past.reset();
    past.with_label(0);
    for (index_t i = 0; i < 6; ++i) {
        const auto out =
            decode<served, double>(pool_weights, matrix_view<const double>(first.data() + 8 * i, 1, 8), past);
        CHECK(distance(flat<double>(out), rows_of(y, i, i + 1, 5)) < 1e-12);
    }
}

TEST_CASE("lora_pool: float, threads, no token, base untouched", "[layer][lora]") {
    const loaded<float> w;
    const auto x = normal_numbers<float>(7 * 14, 1), dy = normal_numbers<float>(9 * 14, 2);
    const auto run = [&](executor_ref exec) {
        tape<pool> t(exec);
        params<pool> g;
        auto all = run_forward(w.all, x, labelled(), t);
        const auto dx = run_backward(w.all, dy, t, g);
        all.insert(all.end(), dx.begin(), dx.end());
        all.insert(all.end(), g.flat().begin(), g.flat().end());
        return all;
    };
    const auto one = run({});
    thread_pool two(2), three(3);
    CHECK(run(two) == one);
    CHECK(run(three) == one);

    const loaded<double> d;
    const std::vector<double> xd(x.begin(), x.end());
    tape<pool, double> t;
    const auto y = run_forward(d.all, xd, labelled(), t);
    CHECK(distance(std::vector<float>(one.begin(), one.begin() + 9 * 14), y) < 5e-5);

    // Without adapters, and without tokens.
    const params<pool> empty{init::standard, 1};
    tape<pool> u;
    auto rows = batch::equal(2, 7);
    rows.with_labels({-1, -1});
    const auto alone = run_forward(empty, x, rows, u);
    params<base> only;
    only.write("weight", empty.read("0.0.weight"));
    tape<base> v;
    CHECK(distance(alone, run_forward(only, x, rows, v)) == 0.0);
    CHECK(run_forward(w.all, std::vector<float>{}, batch::equal(0, 0), u).empty());
}
