#include <mox/layer/signal.hpp>

#include <numeric>
#include <type_traits>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;

namespace {

template <int I>
struct numbered {
    static constexpr index_t width = 1;
};

// Copies the attention each token received into its output.
struct reader {
    static constexpr index_t in = 4, out = 4;
    using reads = leaves<signal::attention_received>;
    static constexpr double flops(double) { return 0; }
    template <class T>
    static void forward(context<T>& ctx, param_ref<reader, const T>, matrix_view<const T> x,
                        matrix_view<T> y) {
        const auto s = ctx.signals->template find<signal::attention_received>();
        for (index_t t = 0; t < x.rows; ++t) std::fill_n(y.row(t), 4, s(ctx.rows.token_of(t), 0));
    }
    template <class T>
    static void backward(context<T>&, param_ref<reader, const T>, param_ref<reader, T>,
                         matrix_view<const T> dy, matrix_view<T> dx) {
        for (index_t t = 0; t < dy.rows; ++t) std::fill_n(dx.row(t), 4, T(0));
    }
};

}  // namespace

TEST_CASE("signals: a board finds what was added, and nothing else", "[layer][signal]") {
    signal_board<double> board;
    CHECK(board.find<signal::attention_received>().data == nullptr);
    std::vector<double> a(3), b(3);
    board.add<numbered<0>>(matrix_view<double>(a.data(), 3, 1));
    board.add<signal::attention_received>(matrix_view<double>(b.data(), 3, 1));
    CHECK(board.find<numbered<0>>().data == a.data());
    CHECK(board.find<signal::attention_received>().data == b.data());
    CHECK(board.find<numbered<1>>().data == nullptr);
    board.clear();
    CHECK(board.find<numbered<0>>().data == nullptr);
}

TEST_CASE("signals: at most eight kinds", "[layer][signal]") {
    signal_board<float> board;
    for_each_index<8>([&](auto i) { board.add<numbered<static_cast<int>(decltype(i)::value)>>({}); });
    CHECK_THROWS_AS(board.add<numbered<8>>({}), error);
}

TEST_CASE("signals: a network lists what its layers read, once", "[layer][signal]") {
    using att = attention<attention_spec{.width = 4, .heads = 2}>;
    static_assert(
        std::is_same_v<signals_read<stack<att, reader, reader>>, leaves<signal::attention_received>>);
    static_assert(std::is_same_v<signals_read<stack<att, att>>, leaves<>>);
    SUCCEED();
}

TEST_CASE("signals: the attention received is a mean over heads and queries, per sequence",
          "[layer][signal]") {
    using full = stack<attention<attention_spec{.width = 4, .heads = 2}, mask::full>, reader>;
    const auto w = mox_test::random_params<full, double>(2);
    tape<full, double> t;
    const auto y =
        mox_test::run_forward(w, mox_test::normal_numbers<double>(10 * 4, 3), batch::ragged({6, 0, 1, 3}), t);
    // Rows of a map sum to one, so do the means of its columns over n keys and n queries.
    const auto sum = [&](std::size_t begin, std::size_t end) {
        double s = 0;
        for (std::size_t i = begin; i < end; ++i) s += y[4 * i];
        return s;
    };
    CHECK(sum(0, 6) == Approx(1.0).epsilon(1e-13));
    CHECK(sum(6, 7) == Approx(1.0).epsilon(1e-13));
    CHECK(sum(7, 10) == Approx(1.0).epsilon(1e-13));
    CHECK(y[0] != Approx(y[4]));
    // With zero queries every visible key gets the same share.
    using causal = stack<attention<attention_spec{.width = 4, .heads = 2}>, reader>;
    params<causal, double> v;
    tape<causal, double> u;
    const auto z = mox_test::run_forward(v, mox_test::normal_numbers<double>(12, 3), batch::equal(1, 3), u);
    CHECK(z[0] == Approx((1 + 0.5 + 1.0 / 3) / 3).epsilon(1e-14));
    CHECK(z[4] == Approx((0.5 + 1.0 / 3) / 3).epsilon(1e-14));
    CHECK(z[8] == Approx(1.0 / 9).epsilon(1e-14));
}
