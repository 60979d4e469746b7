#include <mox/model/run.hpp>

#include <array>
#include <vector>

#include <mox/compose/residual.hpp>
#include <mox/compose/stack.hpp>
#include <mox/interop/eigen.hpp>
#include <mox/layer/linear.hpp>
#include <mox/layer/moe.hpp>
#include <mox/layer/norm.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;
using mox::row_t;

using rows_net = mox::stack<mox::linear<3, 5, mox::bias::with>, mox::rms_norm<5>, mox::linear<5, 2>>;
using ids_net = mox::stack<mox::embedding<7, 4>, mox::linear<4, 7>>;

template <class P>
std::vector<typename P::scalar> flat(const P& p) {
    return {p.flat().begin(), p.flat().end()};
}

}  // namespace

TEST_CASE("shapes that do not fit are refused with the argument, the expected and the given size",
          "[model][run]") {
    const mox::params<rows_net> w{mox::init::standard, 1};
    mox::params<rows_net> g;
    mox::tape<rows_net> tape;
    const auto x = values::normal<float>(4, 3, 1), wide = values::normal<float>(4, 6, 1);
    REQUIRE_THROWS_WITH(
        mox::forward<rows_net>(w, wide, tape),
        "mox::forward: argument 'x' must have 3 columns (the width of the network's input), got 6");
    REQUIRE_THROWS_WITH(
        mox::infer<rows_net>(w, wide, tape),
        "mox::infer: argument 'x' must have 3 columns (the width of the network's input), got 6");
    REQUIRE_THROWS_WITH(mox::forward<rows_net>(w, x, mox::batch::equal(2, 3), tape),
                        "mox::forward: argument 'batch' must have 4 rows, like x, got 6");
    REQUIRE_THROWS_WITH(mox::infer<rows_net>(w, x, mox::batch::equal(1, 1), tape),
                        "mox::infer: argument 'batch' must have 4 rows, like x, got 1");
    (void)mox::forward<rows_net>(w, x, tape);
    values::matrix<float> dx(5, 3), narrow(4, 2);
    REQUIRE_THROWS_WITH(mox::backward<rows_net>(w, tape, g, dx),
                        "mox::backward: argument 'dx' must have 4 rows, like the output, got 5");
    REQUIRE_THROWS_WITH(
        mox::backward<rows_net>(w, tape, g, narrow),
        "mox::backward: argument 'dx' must have 3 columns (the width of the network's input), got 2");
    REQUIRE_THROWS_AS(mox::batch::ragged({3, -1}), mox::error);
    REQUIRE_THROWS_AS(mox::batch::equal(-1, 3), mox::error);
}

TEST_CASE("ids outside the vocabulary are refused with their place", "[model][run]") {
    const mox::params<ids_net> w{mox::init::standard, 1};
    mox::tape<ids_net> tape;
    const std::vector<row_t> high{0, 6, 7, 1}, low{0, 1, 2, -1};
    REQUIRE_THROWS_WITH(mox::forward<ids_net>(w, high, tape),
                        "mox::embedding: argument 'ids' must hold values from 0 to 6, got 7 at position 2");
    REQUIRE_THROWS_WITH(mox::infer<ids_net>(w, low, tape),
                        "mox::embedding: argument 'ids' must hold values from 0 to 6, got -1 at position 3");
    REQUIRE_THROWS_AS(mox::forward<ids_net>(w, high, mox::batch::equal(2, 3), tape), mox::error);
    // After a refusal the tape works again.
    REQUIRE(mox::forward<ids_net>(w, std::vector<row_t>{0, 6}, tape).rows == 2);
}

TEST_CASE("backward needs a training forward of its own", "[model][run]") {
    const mox::params<rows_net> w{mox::init::standard, 1};
    mox::params<rows_net> g;
    mox::tape<rows_net> tape;
    const auto x = values::normal<float>(4, 3, 1);
    const char* sentence = "mox::backward: the tape does not hold the forward pass of this network; call "
                           "mox::forward with the same "
                           "tape first";
    REQUIRE_THROWS_WITH(mox::backward<rows_net>(w, tape, g), sentence);
    (void)mox::forward<rows_net>(w, x, tape);
    mox::backward<rows_net>(w, tape, g);
    REQUIRE_THROWS_WITH(mox::backward<rows_net>(w, tape, g), sentence);  // the second time
    (void)mox::forward<rows_net>(w, x, tape);
    (void)mox::infer<rows_net>(w, x, tape);
    REQUIRE_THROWS_WITH(mox::backward<rows_net>(w, tape, g), sentence);  // infer keeps nothing
}

TEST_CASE("forward and backward of two maps, by plain loops", "[model][run]") {
    using net = mox::stack<mox::linear<3, 4, mox::bias::with>, mox::linear<4, 2>>;
    mox::params<net, double> w{mox::init::standard, 1}, g;
    w.write("0.bias", values::normal<double>(1, 4, 9).v);
    const auto a = w.read("0.weight"), b = w.read("0.bias"), c = w.read("1.weight");
    const auto x = values::normal<double>(5, 3, 1), dy = values::normal<double>(5, 2, 2);
    mox::tape<net, double> tape;
    const auto y = values::copy(mox::forward<net>(w, x, tape));
    values::assign(tape.output_grad(), dy);
    values::matrix<double> dx(5, 3);
    mox::backward<net>(w, tape, g, dx);

    std::vector<double> da(12, 0.0), db(4, 0.0), dc(8, 0.0);
    double worst = 0;
    const auto differ = [&](double p, double q) { worst = std::max(worst, std::abs(p - q)); };
    for (index_t t = 0; t < 5; ++t) {
        std::array<double, 4> h{}, dh{};
        for (std::size_t j = 0; j < 4; ++j) {
            h[j] = b[j];
            for (std::size_t i = 0; i < 3; ++i) h[j] += x(t, static_cast<index_t>(i)) * a[i * 4 + j];
        }
        for (std::size_t k = 0; k < 2; ++k) {
            double want = 0;
            for (std::size_t j = 0; j < 4; ++j) {
                want += h[j] * c[j * 2 + k];
                dh[j] += dy(t, static_cast<index_t>(k)) * c[j * 2 + k];
                dc[j * 2 + k] += h[j] * dy(t, static_cast<index_t>(k));
            }
            differ(want, y(t, static_cast<index_t>(k)));
        }
        for (std::size_t i = 0; i < 3; ++i) {
            double want = 0;
            for (std::size_t j = 0; j < 4; ++j) {
                want += dh[j] * a[i * 4 + j];
                da[i * 4 + j] += x(t, static_cast<index_t>(i)) * dh[j];
            }
            differ(want, dx(t, static_cast<index_t>(i)));
        }
        for (std::size_t j = 0; j < 4; ++j) db[j] += dh[j];
    }
    const auto compare = [&](const std::vector<double>& want, const std::vector<double>& got) {
        REQUIRE(want.size() == got.size());
        for (std::size_t i = 0; i < want.size(); ++i) differ(want[i], got[i]);
    };
    compare(da, g.read("0.weight"));
    compare(db, g.read("0.bias"));
    compare(dc, g.read("1.weight"));
    REQUIRE(worst < 1e-13);
}

TEST_CASE("backward overwrites, backward_accumulate adds", "[model][run]") {
    using net =
        mox::stack<mox::residual<mox::rms_norm<6>, mox::moe<mox::experts<3, mox::swiglu<6, 8>>,
                                                            mox::route::top_k<2>, mox::balance::load<>>>>;
    const mox::params<net, double> w{mox::init::standard, 1};
    mox::params<net, double> first, second, sum;
    mox::tape<net, double> tape;
    const auto x1 = values::normal<double>(9, 6, 1), x2 = values::normal<double>(4, 6, 2);
    const auto step = [&](const values::matrix<double>& x) {
        (void)mox::forward<net>(w, x, tape);
        values::assign(tape.output_grad(), values::normal<double>(x.rows(), 6, 5));
    };
    for (double& v : first.flat()) v = 1e30;  // rubbish from before
    step(x1);
    mox::backward<net>(w, tape, first);
    step(x2);
    mox::backward<net>(w, tape, second);
    sum.zero();
    step(x1);
    mox::backward_accumulate<net>(w, tape, sum);
    step(x2);
    mox::backward_accumulate<net>(w, tape, sum);
    for (const auto& t : mox::params<net, double>::tensors()) {
        INFO(t.path);
        const auto a = first.read(t), b = second.read(t), s = sum.read(t);
        double largest = 0;
        for (std::size_t i = 0; i < s.size(); ++i) {
            REQUIRE(s[i] == Approx(a[i] + b[i]).epsilon(1e-12).margin(1e-14));
            largest = std::max(largest, std::abs(s[i]));
        }
        REQUIRE(largest > 0);
        REQUIRE(largest < 1e10);
    }
}

TEST_CASE("gradients of parameters do not depend on whether dx is wanted", "[model][run]") {
    const mox::params<rows_net> w{mox::init::standard, 1};
    mox::params<rows_net> with, without;
    mox::tape<rows_net> tape;
    const auto x = values::normal<float>(11, 3, 1), dy = values::normal<float>(11, 2, 2);
    values::matrix<float> dx(11, 3);
    (void)mox::forward<rows_net>(w, x, tape);
    values::assign(tape.output_grad(), dy);
    mox::backward<rows_net>(w, tape, with, dx);
    (void)mox::forward<rows_net>(w, x, tape);
    values::assign(tape.output_grad(), dy);
    mox::backward<rows_net>(w, tape, without);
    REQUIRE(values::same_bits(flat(with), flat(without)));
    REQUIRE(values::largest_difference(dx, values::matrix<float>(11, 3)) > 0);
}

TEST_CASE("infer is forward without the memory", "[model][run]") {
    const mox::params<rows_net> w{mox::init::standard, 1};
    mox::tape<rows_net> tape;
    const auto x = values::normal<float>(11, 3, 1);
    const auto y = values::copy(mox::forward<rows_net>(w, x, tape));
    REQUIRE(y == values::copy(mox::infer<rows_net>(w, x, tape)));
    REQUIRE(y == values::copy(mox::infer<rows_net>(w, x, mox::batch::equal(11, 1), tape)));
    REQUIRE(tape.output_grad().data == nullptr);
}

namespace {

// A layer that tells which memory it was given.
template <class T>
const T* seen_rows = nullptr;

template <index_t D>
struct witness {
    static constexpr index_t in = D, out = D;
    static constexpr double flops(double) { return 0; }
    template <class T>
    static void forward(mox::context<T>&, mox::param_ref<witness, const T>, mox::matrix_view<const T> x,
                        mox::matrix_view<T> y) {
        seen_rows<T> = x.data;
        for (index_t i = 0; i < x.rows; ++i) std::copy_n(x.row(i), D, y.row(i));
    }
    template <class T>
    static void backward(mox::context<T>& ctx, mox::param_ref<witness, const T>, mox::param_ref<witness, T>,
                         mox::matrix_view<const T> dy, mox::matrix_view<T> dx) {
        if (!ctx.input_gradient) return;
        for (index_t i = 0; i < dy.rows; ++i) std::copy_n(dy.row(i), D, dx.row(i));
    }
};

}  // namespace

TEST_CASE("matrices of the user go in without a copy", "[model][run]") {
    using net = mox::stack<witness<3>>;
    const mox::params<net, double> w;
    mox::tape<net, double> tape;

    mox::eigen_matrix<double> e(4, 3);
    for (index_t i = 0; i < 12; ++i) e(i / 3, i % 3) = static_cast<double>(i);
    auto y = mox::forward<net>(w, e, tape);
    REQUIRE(seen_rows<double> == e.data());
    REQUIRE(y(2, 1) == 7.0);
    REQUIRE(mox::as_eigen(y) == e);

    // The columns 2 to 4 of a wider matrix: a view with a stride.
    mox::eigen_matrix<double> wide = mox::eigen_matrix<double>::Random(4, 8);
    y = mox::infer<net>(w, wide.middleCols(2, 3), tape);
    REQUIRE(seen_rows<double> == wide.data() + 2);
    for (index_t i = 0; i < 4; ++i) {
        for (index_t j = 0; j < 3; ++j) REQUIRE(y(i, j) == wide(i, 2 + j));
    }

    // A user's own matrix type, a map of a vector, a view of raw memory.
    values::matrix<double> own(2, 3);
    (void)mox::forward<net>(w, own, tape);
    REQUIRE(seen_rows<double> == own.data());
    std::vector<double> raw(6, 2.0);
    (void)mox::infer<net>(w, mox::matrix_view<const double>(raw.data(), 2, 3), tape);
    REQUIRE(seen_rows<double> == raw.data());
    (void)mox::infer<net>(w, Eigen::Map<mox::eigen_matrix<double>>(raw.data(), 2, 3), tape);
    REQUIRE(seen_rows<double> == raw.data());
}

TEST_CASE("ids go in from a vector, an array, or a span", "[model][run]") {
    const mox::params<ids_net> w{mox::init::standard, 1};
    mox::tape<ids_net> tape;
    const std::vector<row_t> v{3, 1, 4};
    const std::array<row_t, 3> a{3, 1, 4};
    const row_t c[] = {3, 1, 4};
    const auto y = values::copy(mox::infer<ids_net>(w, v, tape));
    REQUIRE(y.rows() == 3);
    REQUIRE(values::copy(mox::infer<ids_net>(w, a, tape)) == y);
    REQUIRE(values::copy(mox::infer<ids_net>(w, c, tape)) == y);
    REQUIRE(values::copy(mox::infer<ids_net>(w, std::span<const row_t>(v), tape)) == y);
    // Row t is table[id] times the weight.
    const auto table = w.read("0.table"), weight = w.read("1.weight");
    for (std::size_t t = 0; t < 3; ++t) {
        for (std::size_t j = 0; j < 7; ++j) {
            double want = 0;
            for (std::size_t i = 0; i < 4; ++i) {
                want += static_cast<double>(table[static_cast<std::size_t>(v[t]) * 4 + i]) *
                        static_cast<double>(weight[i * 7 + j]);
            }
            REQUIRE(static_cast<double>(y(static_cast<index_t>(t), static_cast<index_t>(j))) ==
                    Approx(want).epsilon(1e-4).margin(1e-7));
        }
    }
}
