#include <mox/exec/thread_pool.hpp>

#include <atomic>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "../support/catch.hpp"

using namespace mox;

TEST_CASE("thread pool: every task once, many times over", "[exec][thread_pool]") {
    for (const index_t threads : {index_t{1}, index_t{2}, index_t{5}}) {
        thread_pool pool(threads);
        CHECK(pool.concurrency() == threads);
        for (index_t round = 0; round < 300; ++round) {
            const index_t n = round % 7 == 0 ? 0 : round % 37;
            std::vector<std::atomic<int>> seen(static_cast<std::size_t>(n));
            pool.run(n, [&](index_t i) { ++seen[static_cast<std::size_t>(i)]; });
            for (auto& s : seen) REQUIRE(s.load() == 1);
        }
    }
}

TEST_CASE("thread pool: an exception reaches the caller, and the pool works on", "[exec][thread_pool]") {
    for (const index_t threads : {index_t{1}, index_t{3}}) {
        thread_pool pool(threads);
        for (int round = 0; round < 20; ++round) {
            CHECK_THROWS_AS(pool.run(50,
                                     [](index_t i) {
                                         if (i == 17) throw std::out_of_range("17");
                                     }),
                            std::out_of_range);
            std::atomic<int> count{0};
            pool.run(10, [&](index_t) { ++count; });
            CHECK(count == 10);
        }
    }
}

TEST_CASE("thread pool: tasks run at the same time", "[exec][thread_pool]") {
    thread_pool pool(3);
    std::atomic<int> inside{0};
    // Each waits for the others: with fewer threads this would not end.
    pool.run(3, [&](index_t) {
        ++inside;
        while (inside.load() < 3) std::this_thread::yield();
    });
    CHECK(inside == 3);
}

TEST_CASE("thread pool: sizes", "[exec][thread_pool]") {
    CHECK(thread_pool(0).concurrency() >= 1);
    CHECK_THROWS_AS(thread_pool(-1), error);
}
