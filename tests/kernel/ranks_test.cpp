#include <mox/kernel/ranks.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include <mox/exec/thread_pool.hpp>
#include <mox/kernel/reference/ranks.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using mox_test::difference;
using mox_test::guarded_rows;
using mox_test::panel_matrices;

namespace {

// Lists of k of R rows for T tokens, some places empty.
std::vector<row_t> lists(index_t tokens, index_t k, index_t ranks) {
    std::vector<row_t> chosen;
    for (index_t t = 0; t < tokens; ++t) {
        for (index_t j = 0; j < k; ++j)
            chosen.push_back((t + j) % 7 == 3 ? row_t{-1} : static_cast<row_t>((t * 5 + j * 3) % ranks));
    }
    return chosen;
}

// A list's rows with their weights.
template <class T>
std::vector<simd::placed<T>> weighted(const std::vector<row_t>& chosen, const T* weight) {
    std::vector<simd::placed<T>> all;
    for (const row_t row : chosen) all.push_back({*weight++, row});
    return all;
}

template <class T>
void check_lists(index_t tokens, index_t k, index_t ranks, index_t width, executor_ref exec) {
    CAPTURE(tokens, k, ranks, width);
    namespace plain = kernel::reference;
    panel_matrices<T> b(1, ranks, width, 3), db(1, ranks, width, 6);
    guarded_rows<T> x(tokens, width, 4), y = x, weight(1, tokens * k, 5);
    guarded_rows<double> x2(x), y2(x), weight2(weight), db2(ranks, width, 7);
    const auto chosen = lists(tokens, k, ranks);
    const T* const w = weight.values.data();
    const double* const w2 = weight2.values.data();
    std::vector<T> out(chosen.size(), T(-9));
    std::vector<double> out2(chosen.size());

    // Sums of as many products of size about 1 as there are columns, choices and tokens.
    const double unit = std::is_same_v<T, float> ? 2e-5 : 1e-13;
    kernel::add_chosen_rows<T>(exec, weighted(chosen, w).data(), k, b.view(), y.view());
    plain::add_chosen_rows<double>(chosen.data(), w2, k, b.plain_view(), y2.view());
    CHECK(difference(y, y2) < unit * static_cast<double>(k));
    CHECK(y.guards_hold());
    kernel::dot_chosen_rows<T>(exec, x.view(), chosen.data(), k, b.view(), out.data());
    plain::dot_chosen_rows<double>(x2.view(), chosen.data(), k, b.plain_view(), out2.data());
    CHECK(difference(out, out2) < unit * std::sqrt(static_cast<double>(width)));
    for (std::size_t i = 0; i < chosen.size(); ++i) CHECK((chosen[i] >= 0 || out[i] == T(0)));

    for (const bool accumulate : {false, true}) {
        kernel::chosen_rows_gradient<T>(exec, chosen.data(), w, k, x.view(), db.view(), accumulate);
        plain::chosen_rows_gradient<double>(chosen.data(), w2, k, x2.view(), db2.view(), accumulate);
        double worst = 0;
        for (index_t r = 0; r < ranks; ++r) {
            for (index_t c = 0; c < width; ++c)
                worst =
                    std::max(worst, mox_test::difference(static_cast<double>(db.view()(r, c)), db2(r, c)));
            // The unused columns of the last panel stay zero.
            for (index_t c = width; c < db.padded; ++c) CHECK(db.view()(r, c) == T(0));
        }
        CHECK(worst < 2 * unit * std::sqrt(static_cast<double>(tokens) + 1));
    }
}

}  // namespace

TEMPLATE_TEST_CASE("ranks: chosen rows against their plain twins", "[kernel][ranks]", float, double) {
    thread_pool pool(2);
    for (const index_t width : {1, 7, 16, 33, 64, 150}) {
        for (const index_t k : {1, 3, 8, 11}) check_lists<TestType>(9, k, 13, width, {});
    }
    check_lists<TestType>(0, 3, 5, 20, {});
    check_lists<TestType>(1, 2, 2, 70, pool);
    check_lists<TestType>(130, 4, 32, 150, pool);
}

TEST_CASE("ranks: rows that come from memory get the same bits", "[kernel][ranks]") {
    // So many that they are asked for in advance; a block of them lies near.
    const index_t width = 1040, k = 3, ranks = 5,
                  block = std::min<index_t>(100, kernel::near_bytes() / (4 * width) - 1);
    REQUIRE(block > 0);
    const index_t tokens = kernel::near_bytes() / (4 * width) + 70;
    panel_matrices<float> b(1, ranks, width, 3);
    guarded_rows<float> far(tokens, width, 4), near = far, weight(1, tokens * k, 5);
    REQUIRE(kernel::asks_ahead(far.view()));
    const auto chosen = lists(tokens, k, ranks);
    std::vector<float> out(chosen.size()), out_near(chosen.size());
    kernel::dot_chosen_rows<float>({}, far.view(), chosen.data(), k, b.view(), out.data());
    const auto list = weighted(chosen, weight.values.data());
    kernel::add_chosen_rows<float>({}, list.data(), k, b.view(), far.view());
    for (index_t t = 0; t < tokens; t += block) {
        const matrix_view<float> rows(near.view().row(t), std::min(block, tokens - t), width,
                                      near.view().stride);
        kernel::dot_chosen_rows<float>({}, rows, chosen.data() + t * k, k, b.view(), out_near.data() + t * k);
        kernel::add_chosen_rows<float>({}, list.data() + t * k, k, b.view(), rows);
    }
    CHECK(out == out_near);
    CHECK(far.values == near.values);
}
