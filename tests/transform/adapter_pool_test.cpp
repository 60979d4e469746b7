#include <mox/transform/adapter_pool.hpp>

#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using Catch::Matchers::Contains;
using mox_test::distance;
using mox_test::normal_numbers;
using mox_test::random_params;
using mox_test::run_forward;

namespace {

using base = linear<7, 9>;
template <index_t Rank>
inline constexpr adapter_spec rank{.rank = Rank, .alpha = 5};
template <index_t Rank>
using adapter = lora<base, rank<Rank>>;
using pool = lora_pool<base, pool_spec{.adapters = 4, .ranks = 11}>;

// Every number of a network.
template <class Net, class T>
std::vector<T> all_of(const params<Net, T>& w) {
    std::vector<T> all;
    for (const auto& t : params<Net, T>::tensors()) {
        const auto v = w.read(t);
        all.insert(all.end(), v.begin(), v.end());
    }
    return all;
}

template <index_t Rank>
params<adapter<Rank>, double> trained(std::uint64_t seed) {
    auto w = random_params<adapter<Rank>, double>(seed);
    w.write("0.0.weight", std::vector<double>(63, 0.25));
    return w;
}

// Adapter 2 has rank 1, adapter 0 rank 6, adapter 3 rank 3; one rank of eleven is left.
params<pool, double> three_adapters() {
    params<pool, double> w{init::standard, 1};
    w.write("0.0.weight", std::vector<double>(63, 0.25));
    load_adapter(trained<1>(1), w, 2);
    load_adapter(trained<6>(2), w, 0);
    load_adapter(trained<3>(3), w, 3);
    return w;
}

// The pool with one label for all, and an adapter by itself.
template <class One, class Pool>
double difference(const params<One, double>& one, const params<Pool, double>& all, row_t id) {
    const auto x = normal_numbers<double>(Pool::in * 5, 1);
    auto rows = batch::equal(1, 5);
    tape<One, double> t;
    tape<Pool, double> u;
    const auto alone = run_forward(one, x, rows, t);
    rows.with_labels({id});
    return distance(run_forward(all, x, rows, u), alone);
}

}  // namespace

TEST_CASE("adapter_pool: an adapter lies rank by rank where room is, with its scale", "[transform][lora]") {
    const auto w = three_adapters();
    CHECK(w.read("first") == std::vector<double>{1, 0, 0, 7});
    CHECK(w.read("rank") == std::vector<double>{6, 0, 1, 3});
    CHECK(w.read("scale")[0] == Approx(5.0 / 6));
    const auto a = w.read("a"), b = w.read("b");
    const auto six = trained<6>(2);
    CHECK(std::vector<double>(a.begin() + 7, a.begin() + 49) == six.read("a"));
    CHECK(std::vector<double>(b.begin() + 9, b.begin() + 63) == six.read("b"));
    CHECK(difference(trained<1>(1), w, 2) < 1e-13);
    CHECK(difference(six, w, 0) < 1e-13);
    CHECK(difference(trained<3>(3), w, 3) < 1e-13);
}

TEST_CASE("adapter_pool: room is found again after an adapter has left", "[transform][lora]") {
    auto w = three_adapters();
    const auto four = trained<4>(9), other = trained<4>(10);
    unload_adapter(w, 0);
    CHECK(w.read("rank") == std::vector<double>{0, 0, 1, 3});
    // Ranks 1 to 6 are free: room for 4 and then for 2, neighbours as they must be.
    CHECK(load_adapter(four, w, 1) == 1);
    CHECK(w.read("first")[1] == 1.0);
    CHECK_THROWS_WITH(load_adapter(trained<3>(4), w, 0), Contains("no 3 neighbouring ranks left of its 11"));
    CHECK(load_adapter(trained<2>(4), w, 0) == 1);
    CHECK(w.read("first")[0] == 5.0);
    CHECK(difference(four, w, 1) < 1e-13);
    CHECK(difference(trained<2>(4), w, 0) < 1e-13);
    CHECK(difference(trained<3>(3), w, 3) < 1e-13);
    // The same id again, with others' old numbers in its place.
    unload_adapter(w, 1);
    CHECK(load_adapter(other, w, 1) == 1);
    CHECK(difference(other, w, 1) < 1e-13);
    // A pool as large as one adapter.
    params<lora_pool<base, pool_spec{.adapters = 1, .ranks = 4}>, double> tight{init::standard, 1};
    tight.write("0.0.weight", std::vector<double>(63, 0.25));
    CHECK(load_adapter(four, tight, 0) == 1);
    CHECK(difference(four, tight, 0) < 1e-13);
}

TEST_CASE("adapter_pool: the ranks kept of earlier tasks come along", "[transform][lora]") {
    constexpr adapter_spec next{.rank = 2, .alpha = 5, .kept_ranks = 3};
    auto w = three_adapters();
    unload_adapter(w, 0);
    auto learned = random_params<lora<base, next>, double>(6);
    learned.write("0.0.weight", std::vector<double>(63, 0.25));
    CHECK(load_adapter(learned, w, 1) == 1);
    CHECK(w.read("rank")[1] == 5.0);
    CHECK(difference(learned, w, 1) < 1e-13);
}

TEST_CASE("adapter_pool: says what is wrong, and leaves the target as it was", "[transform][lora][error]") {
    auto w = three_adapters();
    const auto before = all_of(w);
    const auto four = trained<4>(9);
    CHECK_THROWS_WITH(
        load_adapter(four, w, 1),
        Contains("mox::load_adapter: the pool at '' has no 4 neighbouring ranks left of its 11"));
    CHECK_THROWS_WITH(load_adapter(four, w, 0), Contains("already has an adapter 0; unload it first"));
    CHECK_THROWS_WITH(load_adapter(four, w, 4), Contains("must be a number from 0 to 3, got 4"));
    CHECK_THROWS_WITH(load_adapter(four, w, -1), Contains("must be a number from 0 to 3, got -1"));
    CHECK_THROWS_WITH(unload_adapter(w, 1), Contains("mox::unload_adapter: adapter 1 is not loaded"));
    CHECK_THROWS_WITH(unload_adapter(w, 4), Contains("adapter 4 is not loaded"));
    CHECK_THROWS_WITH(unload_adapter(w, -1), Contains("adapter -1 is not loaded"));
    CHECK_THROWS_WITH(load_adapter(random_params<lora<linear<7, 8>, rank<1>>, double>(1), w, 1),
                      Contains("is 7 x 9 wide, the adapter at its place 7 x 8"));
    CHECK(all_of(w) == before);
    auto plain = random_params<base, double>(1);
    CHECK_THROWS_WITH(load_adapter(four, plain, 0), Contains("the target has no mox::lora_pool"));
    CHECK_THROWS_WITH(unload_adapter(plain, 0), Contains("the network has no mox::lora_pool"));
}

TEST_CASE("adapter_pool: every map of a network, or none", "[transform][lora][error]") {
    constexpr pool_spec room{.adapters = 2, .ranks = 5}, less{.adapters = 2, .ranks = 2};
    using map = linear<6, 6>;
    using small = stack<lora<map, rank<3>>, lora<map, rank<3>>>;
    using served = stack<lora_pool<map, room>, lora_pool<map, room>>;
    using narrow = stack<lora_pool<map, room>, lora_pool<map, less>>;
    using half = stack<lora_pool<map, room>, map>;
    const auto from = random_params<small, double>(2);
    params<served, double> to{init::standard, 1};
    for (const std::string map_of : {"0.0.0.weight", "1.0.0.weight"}) to.write(map_of, from.read(map_of));
    CHECK(load_adapter(from, to, 1) == 2);
    CHECK(difference(from, to, 1) < 1e-13);
    unload_adapter(to, 1);
    CHECK(to.read("0.rank") == std::vector<double>{0, 0});
    CHECK(to.read("1.rank") == std::vector<double>{0, 0});

    // The second pool has no room: the first is not touched either.
    params<narrow, double> tight{init::standard, 1};
    const auto before = all_of(tight);
    CHECK_THROWS_WITH(load_adapter(from, tight, 1), Contains("the pool at '1' has no 3 neighbouring ranks"));
    CHECK(all_of(tight) == before);
    params<half, double> without{init::standard, 1};
    const auto still = all_of(without);
    CHECK_THROWS_WITH(load_adapter(from, without, 1),
                      Contains("the adapter at '1' has no pool at its place in the target"));
    CHECK(all_of(without) == still);
    using first_only = stack<lora<map, rank<3>>, map>;
    CHECK_THROWS_WITH(load_adapter(random_params<first_only, double>(1), to, 1),
                      Contains("the pool at '1' has no adapter at its place in the source"));
    CHECK(to.read("0.rank") == std::vector<double>{0, 0});
}
