#include <mox/layer/embedding.hpp>

#include <vector>

#include <mox/exec/thread_pool.hpp>
#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using namespace mox_test;

TEST_CASE("embedding: rows of the table, and their gradients summed", "[layer][embedding]") {
    using net = embedding<5, 3>;
    const auto w = random_params<net, double>(1);
    const auto table = w.read("table");
    const std::vector<row_t> ids{4, 0, 4, 2};
    thread_pool pool(3);
    for (const executor_ref exec : {executor_ref(), executor_ref(pool)}) {
        tape<net, double> t(exec);
        const auto y = forward<net, double>(w, ids, t);
        const auto dy = normal_numbers<double>(12, 2);
        std::vector<double> expected(15, 0);
        for (index_t i = 0; i < 4; ++i) {
            for (index_t j = 0; j < 3; ++j) {
                const auto at = static_cast<std::size_t>(ids[static_cast<std::size_t>(i)] * 3 + j);
                CHECK(y(i, j) == table[at]);
                t.output_grad()(i, j) = dy[static_cast<std::size_t>(i * 3 + j)];
                expected[at] += dy[static_cast<std::size_t>(i * 3 + j)];
            }
        }
        auto g = random_params<net, double>(5);
        backward<net, double>(w, t, g);
        CHECK(g.read("table") == expected);
    }
}

TEST_CASE("embedding: gradients", "[layer][embedding]") {
    const auto r = gradcheck<stack<embedding<7, 5>, linear<5, 4>>>({}, batch::ragged({3, 0, 6}));
    INFO(r.message);
    CHECK(r.passed);
}

TEST_CASE("embedding: ids outside the vocabulary are refused", "[layer][embedding]") {
    using net = embedding<5, 3>;
    const auto w = random_params<net, float>(1);
    tape<net, float> t;
    CHECK_THROWS_AS((forward<net, float>(w, std::vector<row_t>{1, 5}, t)), error);
    CHECK_THROWS_AS((forward<net, float>(w, std::vector<row_t>{-1}, t)), error);
    CHECK_NOTHROW((forward<net, float>(w, std::vector<row_t>{0, 4}, t)));
    CHECK((forward<net, float>(w, std::vector<row_t>{}, t)).rows == 0);
    try {
        forward<net, float>(w, std::vector<row_t>{1, 5}, t);
    } catch (const error& e) {
        CHECK(std::string(e.what()).find("got 5 at position 1") != std::string::npos);
    }
}
