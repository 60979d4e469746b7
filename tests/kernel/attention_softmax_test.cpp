#include <mox/kernel/attention_softmax.hpp>

#include <cmath>
#include <memory>
#include <vector>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using namespace mox::kernel;
using mox_test::guarded_rows;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr index_t stride = round_up(40, simd::lanes<double>) + simd::lanes<double>;

// Passes a map of scores block by block; returns the weights divided by their sums.
std::vector<std::vector<double>> softmax(const std::vector<std::vector<double>>& map, index_t step,
                                         bool causal, std::vector<double>& lse) {
    const auto n_q = static_cast<index_t>(map.size()), n_k = static_cast<index_t>(map[0].size());
    const row_t query[] = {0, static_cast<row_t>(n_q)}, key[] = {0, static_cast<row_t>(n_k)};
    const kernel::detail::attention_sequence sequence({1, 1, 1, causal, 1}, {query, key, 1}, 0);
    using state_type = kernel::detail::running_softmax<double, simd::default_arch>;
    const auto state = std::make_unique<state_type>();
    state->start(n_q);
    std::vector<std::vector<double>> weights(map.size());
    std::vector<std::vector<double>> shifts;
    for (index_t first = 0; first < n_k; first += step) {
        const kernel::detail::visible_block block{sequence, 0, n_q, first, std::min(n_k, first + step)};
        std::vector<double> scores(static_cast<std::size_t>(n_q * stride), std::nan(""));
        for (index_t r = 0; r < n_q; ++r) {
            for (index_t j = 0; j < block.keys(r); ++j)
                scores[static_cast<std::size_t>(r * stride + j)] =
                    map[static_cast<std::size_t>(r)][static_cast<std::size_t>(first + j)];
        }
        shifts.emplace_back(static_cast<std::size_t>(state_type::rows));
        state->pass(block, scores.data(), stride, shifts.back().data());
        for (index_t r = 0; r < n_q; ++r) {
            const auto row = static_cast<std::size_t>(r);
            // What was collected so far shrinks by the carry.
            for (double& w : weights[row]) w *= state->carry[row];
            for (index_t j = 0; j < block.keys(r); ++j)
                weights[row].push_back(scores[static_cast<std::size_t>(r * stride + j)]);
        }
    }
    constexpr index_t dp = simd::lanes<double>;
    const std::vector<double> ones(static_cast<std::size_t>(n_q * dp), 1.0);
    guarded_rows<double> out(n_q, 1, 1);
    state->finish(n_q, ones.data(), dp, out.view());
    CHECK(out.guards_hold());
    lse.clear();
    for (index_t r = 0; r < n_q; ++r) {
        for (double& w : weights[static_cast<std::size_t>(r)]) w *= out(r, 0);
        lse.push_back(state->log_sum_exp(r));
    }
    return weights;
}

}  // namespace

TEST_CASE("attention softmax: block by block equals all at once", "[kernel][attention]") {
    const guarded_rows<double> values(7, 40, 3, 4.0);
    std::vector<std::vector<double>> map(7);
    for (index_t r = 0; r < 7; ++r) {
        for (index_t j = 0; j < 40; ++j) map[static_cast<std::size_t>(r)].push_back(values(r, j));
    }
    map[2][1] = 500;   // an early maximum
    map[3][30] = 500;  // a late one: all before vanishes
    for (int j = 0; j < 8; ++j) map[4][static_cast<std::size_t>(j)] = -infinity;  // a block of nothing
    for (const bool causal : {true, false}) {
        for (const index_t step : {8, 16, 40}) {
            std::vector<double> lse;
            const auto found = softmax(map, step, causal, lse);
            for (std::size_t r = 0; r < 7; ++r) {
                const std::size_t n = causal ? 34 + r : 40;
                REQUIRE(found[r].size() == n);
                double sum = 0, largest = -infinity;
                for (std::size_t j = 0; j < n; ++j) largest = std::max(largest, map[r][j]);
                for (std::size_t j = 0; j < n; ++j) sum += std::exp(map[r][j] - largest);
                CHECK(lse[r] == Approx(largest + std::log(sum)).epsilon(1e-13));
                for (std::size_t j = 0; j < n; ++j) {
                    const double expected = std::exp(map[r][j] - largest) / sum;
                    if (!(std::abs(found[r][j] - expected) < 1e-13)) CHECK(found[r][j] == expected);
                }
            }
        }
    }
}

TEST_CASE("attention softmax: NaN and infinity stay in their row", "[kernel][attention]") {
    std::vector<std::vector<double>> map(5, std::vector<double>(20, 0.5));
    map[1][3] = std::nan("");
    map[2][15] = std::nan("");
    map[3][17] = infinity;
    for (double& x : map[4]) x = -infinity;
    std::vector<double> lse;
    const auto found = softmax(map, 8, false, lse);
    for (std::size_t j = 0; j < 20; ++j) {
        CHECK(found[0][j] == Approx(0.05));
        for (std::size_t r = 1; r < 5; ++r) CHECK(std::isnan(found[r][j]));
    }
}
