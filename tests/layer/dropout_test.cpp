#include <mox/layer/dropout.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <mox/exec/thread_pool.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using mox_test::normal_numbers;

namespace {

// The rows of a dense matrix after a draw.
template <class T>
std::vector<T> dropped(const dropout_draw& draw, const std::vector<T>& from, index_t cols,
                       executor_ref exec = {}) {
    std::vector<T> to(from.size(), T(-99));
    const index_t rows = static_cast<index_t>(from.size()) / cols;
    draw.apply<T>(exec, {from.data(), rows, cols}, {to.data(), rows, cols}, false);
    return to;
}

}  // namespace

TEST_CASE("dropout: keeps the mean, and drops the share it says", "[layer][dropout]") {
    const std::vector<double> ones(10000, 1.0);
    const std::vector<double> to = dropped<double>({7, 3, 0.3}, ones, 100);
    double sum = 0, zeros = 0;
    for (const double v : to) {
        sum += v;
        zeros += v == 0.0;
        CHECK((v == 0.0 || v == Approx(1 / 0.7)));
    }
    CHECK(zeros / 10000 == Approx(0.3).margin(0.02));
    CHECK(sum / 10000 == Approx(1.0).margin(0.03));
    // Half of the mask is not the other half.
    CHECK(std::vector<double>(to.begin(), to.begin() + 5000) !=
          std::vector<double>(to.begin() + 5000, to.end()));
}

TEST_CASE("dropout: each value is zero or divided by what is kept, with an oracle of single draws",
          "[layer][dropout]") {
    // Widths around the four numbers of a block.
    for (const index_t cols : {index_t{1}, index_t{3}, index_t{4}, index_t{5}, index_t{16}, index_t{19}}) {
        const auto x = normal_numbers<double>(7 * cols, 3);
        const dropout_draw draw{11, 5, 0.4};
        const random_stream numbers(11, 5);
        std::vector<double> want;
        for (index_t t = 0; t < 7; ++t) {
            for (index_t j = 0; j < cols; ++j) {
                // Every row begins a block of its own.
                const auto at = static_cast<std::uint64_t>(t * round_up(cols, index_t{4}) + j);
                const double uniform = numbers.bits(at) * 0x1p-32;
                want.push_back(uniform < 0.4 ? 0.0
                                             : x[static_cast<std::size_t>(t * cols + j)] * (1 / (1 - 0.4)));
            }
        }
        CHECK(dropped(draw, x, cols) == want);
    }
}

TEST_CASE("dropout: the mask is drawn again, not stored: float and double, in place and added to",
          "[layer][dropout]") {
    const dropout_draw draw{1, 2, 0.5};
    const auto x = normal_numbers<double>(60, 4);
    const auto first = dropped(draw, x, 12);
    CHECK(dropped(draw, x, 12) == first);
    const auto single = dropped(draw, std::vector<float>(60, 1.0f), 12);
    for (std::size_t i = 0; i < 60; ++i) CHECK((single[i] == 0.0f) == (first[i] == 0.0));

    std::vector<double> sum(60, 3.0), inside = x;
    const matrix_view<double> to(sum.data(), 5, 12), same(inside.data(), 5, 12);
    draw.apply<double>({}, {x.data(), 5, 12}, to, true);
    draw.apply<double>({}, same, same, false);
    CHECK(inside == first);
    for (std::size_t i = 0; i < 60; ++i) CHECK(sum[i] == 3.0 + first[i]);
    // Another seed or stream is another mask.
    CHECK(dropped<double>({2, 2, 0.5}, x, 12) != first);
    CHECK(dropped<double>({1, 3, 0.5}, x, 12) != first);
}

TEST_CASE("dropout: leaves what lies behind the columns alone, and passes NaN where it is kept",
          "[layer][dropout]") {
    std::vector<double> to(4 * 9, -5.0);
    const std::vector<double> nan(4 * 9, std::numeric_limits<double>::quiet_NaN());
    dropout_draw{3, 1, 0.5}.apply<double>({}, {nan.data(), 4, 6, 9}, {to.data(), 4, 6, 9}, false);
    index_t kept = 0;
    for (index_t t = 0; t < 4; ++t) {
        for (index_t j = 0; j < 9; ++j) {
            const double v = to[static_cast<std::size_t>(t * 9 + j)];
            if (j >= 6) CHECK(v == -5.0);
            if (j < 6 && std::isnan(v)) ++kept;
            if (j < 6 && !std::isnan(v)) CHECK(v == 0.0);
        }
    }
    CHECK(kept > 0);
    CHECK(kept < 24);
    CHECK(dropped<double>({3, 1, 0.5}, {}, 6).empty());
}

TEST_CASE("dropout: the same bits for any number of threads", "[layer][dropout]") {
    const auto x = normal_numbers<float>(301 * 13, 4);
    const auto one = dropped<float>({4, 4, 0.2}, x, 13);
    thread_pool two(2), three(3);
    CHECK(dropped<float>({4, 4, 0.2}, x, 13, two) == one);
    CHECK(dropped<float>({4, 4, 0.2}, x, 13, three) == one);
}

TEST_CASE("dropout: every layer and every step has a stream of its own; evaluation drops nothing",
          "[layer][dropout]") {
    context<double> ctx;
    ctx.seed = 17;
    ctx.step = 2;
    const auto first = dropout_draw::next(ctx, 0.25), second = dropout_draw::next(ctx, 0.25);
    CHECK((first.active() && first.seed == 17 && first.probability == 0.25));
    CHECK(first.stream != second.stream);
    CHECK(ctx.next_draw == 2);
    ctx.next_draw = 0;
    ctx.step = 3;
    const auto later = dropout_draw::next(ctx, 0.25);
    CHECK((later.stream != first.stream && later.stream != second.stream));
    // In evaluation too a number is taken, so that the layers behind draw what they draw in training.
    ctx.mode = phase::evaluate;
    CHECK_FALSE(dropout_draw::next(ctx, 0.25).active());
    CHECK(ctx.next_draw == 2);
    CHECK_FALSE(dropout_draw{}.active());
}
