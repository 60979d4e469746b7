#include <mox/kernel/attention_shape.hpp>

#include <atomic>
#include <vector>

#include <mox/exec/thread_pool.hpp>

#include "../support/catch.hpp"

using namespace mox;
using namespace mox::kernel;

TEST_CASE("attention shape: who sees what", "[kernel][attention]") {
    const row_t query[] = {0, 3, 3, 10}, key[] = {0, 5, 9, 16};
    const attention_rows rows{query, key, 3};
    const kernel::detail::longest_rows longest(rows);
    CHECK(longest.queries == 7);
    CHECK(longest.keys == 7);
    for (const bool causal : {true, false}) {
        for (index_t seq = 0; seq < rows.sequences; ++seq) {
            const kernel::detail::attention_sequence s({1, 1, 1, causal, 1}, rows, seq);
            for (index_t j = 0; j < s.n_k; ++j) {
                index_t first = s.n_q;
                for (index_t i = s.n_q; i-- > 0;) {
                    if (j < s.visible(i)) first = i;
                }
                CHECK(std::min(s.n_q, s.first_query(j)) == first);
            }
            // The last query sees everything.
            if (s.n_q > 0) CHECK(s.visible(s.n_q - 1) == s.n_k);
        }
    }
}

TEST_CASE("attention shape: units find their sequence", "[kernel][attention]") {
    arena scratch;
    const std::vector<index_t> counts{0, 3, 0, 0, 1, 5, 0};
    const kernel::detail::unit_map units(scratch, static_cast<index_t>(counts.size()),
                                         [&](index_t s) { return counts[static_cast<std::size_t>(s)]; });
    CHECK(units.total() == 9);
    index_t unit = 0;
    for (std::size_t s = 0; s < counts.size(); ++s) {
        CHECK(units.first(static_cast<index_t>(s)) == unit);
        for (index_t i = 0; i < counts[s]; ++i, ++unit) {
            CHECK(units.find(unit).sequence == static_cast<index_t>(s));
            CHECK(units.find(unit).unit == i);
        }
    }
    CHECK(kernel::detail::unit_map(scratch, 0, [](index_t) { return 1; }).total() == 0);
}

TEST_CASE("attention shape: every unit runs once, a worker one unit at a time", "[kernel][attention]") {
    thread_pool pool(3);
    for (const index_t n : {0, 1, 2, 50}) {
        std::vector<std::atomic<int>> runs(static_cast<std::size_t>(n));
        std::vector<std::atomic<int>> busy(3);
        std::atomic<bool> overlap{false};
        kernel::detail::for_each_with_worker(pool, n, [&](index_t unit, index_t worker) {
            if (worker >= kernel::detail::workers_for(pool, n)) overlap = true;
            if (busy[static_cast<std::size_t>(worker)].fetch_add(1) != 0) overlap = true;
            ++runs[static_cast<std::size_t>(unit)];
            busy[static_cast<std::size_t>(worker)].fetch_sub(1);
        });
        CHECK(!overlap);
        for (const auto& r : runs) CHECK(r == 1);
    }
}
