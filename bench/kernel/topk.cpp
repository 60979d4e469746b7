// The k largest logits of every token, beside std::partial_sort token by token.

#include <algorithm>
#include <numeric>
#include <string>

#include "support/steps.hpp"

namespace {

using mox::index_t;
using mox::row_t;

constexpr index_t tokens = 512;

struct selection {
    index_t experts, k;
    mox::buffer<float> logits;
    std::vector<row_t> chosen, order;

    selection(index_t experts_, index_t k_)
        : experts(experts_), k(k_), logits(bench::random_rows(tokens, experts_, 3)),
          chosen(static_cast<std::size_t>(tokens * k_)), order(static_cast<std::size_t>(experts_)) {}

    void by_lanes() {
        mox::kernel::top_k_rows<float>({}, mox::matrix_view<const float>(logits.data(), tokens, experts), k,
                                       chosen.data());
    }
    void partial_sort() {
        for (index_t t = 0; t < tokens; ++t) {
            const float* row = logits.data() + t * experts;
            std::iota(order.begin(), order.end(), 0);
            std::partial_sort(order.begin(), order.begin() + k, order.end(),
                              [&](row_t a, row_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; });
            std::copy_n(order.begin(), k, chosen.begin() + t * k);
        }
    }
};

const bench::registration add([](std::vector<bench::group>& groups) {
    for (const index_t experts : {8, 16, 32, 64, 128, 256}) {
        for (const index_t k : {1, 2, 4, 8}) {
            if (k == experts) continue;
            groups.push_back({"topk/" + std::to_string(k) + "_of_" + std::to_string(experts),
                              static_cast<double>(tokens * experts),
                              bench::limit::none,
                              {{0, 4.0, "partial_sort"}},
                              {{"mox", bench::run(&selection::by_lanes, experts, k)},
                               {"partial_sort", bench::run(&selection::partial_sort, experts, k)}}});
        }
    }
});

}  // namespace
