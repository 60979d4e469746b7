#include <mox/exec/executor.hpp>

#include <vector>

#include "../support/catch.hpp"

using namespace mox;

namespace {

// Runs backwards and counts: results must not depend on the order.
struct backwards {
    index_t threads = 4;
    index_t calls = 0;
    index_t concurrency() const { return threads; }
    template <class Task>
    void run(index_t n, Task&& task) {
        ++calls;
        for (index_t i = n; i-- > 0;) task(i);
    }
};
static_assert(executor<backwards> && executor<serial_executor> && !executor<int>);

}  // namespace

TEST_CASE("executor: the default runs in order in the calling thread", "[exec][executor]") {
    std::vector<index_t> seen;
    executor_ref().run(4, [&](index_t i) { seen.push_back(i); });
    CHECK(seen == std::vector<index_t>{0, 1, 2, 3});
    CHECK(executor_ref().concurrency() == 1);
    seen.clear();
    serial_executor().run(2, [&](index_t i) { seen.push_back(i); });
    CHECK(seen == std::vector<index_t>{0, 1});
    executor_ref().run(0, [&](index_t) { FAIL(); });
    executor_ref().run(-1, [&](index_t) { FAIL(); });
}

TEST_CASE("executor: a host's own executor is called through the handle", "[exec][executor]") {
    backwards host;
    const executor_ref ref(host);
    CHECK(ref.concurrency() == 4);
    std::vector<index_t> seen;
    ref.run(3, [&](index_t i) { seen.push_back(i); });
    CHECK(seen == std::vector<index_t>{2, 1, 0});
    CHECK(host.calls == 1);
    ref.run(1, [&](index_t i) { seen.push_back(i); });
    CHECK(seen.size() == 4);
    ref.run(0, [&](index_t) { FAIL(); });
}

TEST_CASE("executor: ranges cover everything once, at the asked multiples and lengths", "[exec][executor]") {
    for (const index_t threads : {index_t{1}, index_t{3}, index_t{8}}) {
        backwards host{threads};
        for (const index_t size : {index_t{0}, index_t{1}, index_t{63}, index_t{64}, index_t{1000}}) {
            for (const index_t least : {index_t{1}, index_t{64}}) {
                for (const index_t multiple : {index_t{1}, index_t{16}}) {
                    std::vector<int> seen(static_cast<std::size_t>(size), 0);
                    index_t pieces = 0;
                    parallel_ranges(
                        host, size, least,
                        [&](index_t begin, index_t end) {
                            ++pieces;
                            CHECK(begin < end);
                            CHECK(begin % multiple == 0);
                            // Only the last piece may be shorter.
                            CHECK((end - begin >= std::min(least, size) || end == size));
                            for (index_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
                        },
                        multiple);
                    CHECK(seen == std::vector<int>(static_cast<std::size_t>(size), 1));
                    CHECK(pieces <= (threads == 1 ? 1 : 4 * threads));
                }
            }
        }
    }
}
