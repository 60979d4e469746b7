#include <mox/compose/residual.hpp>

#include <vector>

#include <mox/compose/stack.hpp>
#include <mox/layer/linear.hpp>
#include <mox/layer/moe.hpp>
#include <mox/layer/norm.hpp>
#include <mox/model/run.hpp>
#include <mox/train/gradcheck.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;

// y and dx of a residual against the layers without it.
template <class T, class... Ls>
void check_residual() {
    using with = mox::residual<Ls...>;
    using without = mox::stack<Ls...>;
    const mox::params<with, T> w{mox::init::standard, 2};
    mox::params<without, T> v;
    values::copy_in_order(w, v);
    const auto x = values::normal<T>(10, with::in, 1), dy = values::normal<T>(10, with::in, 2);
    values::matrix<T> dx(10, with::in), df(10, with::in);
    mox::params<with, T> g;
    mox::params<without, T> h;
    mox::tape<with, T> a;
    mox::tape<without, T> b;
    const auto y = values::copy(mox::forward<with>(w, x, a));
    values::assign(a.output_grad(), dy);
    mox::backward<with>(w, a, g, dx);
    const auto f = values::copy(mox::forward<without>(v, x, b));
    values::assign(b.output_grad(), dy);
    mox::backward<without>(v, b, h, df);
    for (index_t t = 0; t < 10; ++t) {
        for (index_t j = 0; j < with::in; ++j) {
            REQUIRE(y(t, j) == x(t, j) + f(t, j));
            REQUIRE(dx(t, j) == dy(t, j) + df(t, j));
        }
    }
    const auto tw = mox::params<with, T>::tensors();
    const auto tv = mox::params<without, T>::tensors();
    for (std::size_t i = 0; i < tw.size(); ++i) REQUIRE(values::same_bits(g.read(tw[i]), h.read(tv[i])));
    REQUIRE(y == values::copy(mox::infer<with>(w, x, a)));
    REQUIRE(with::flops(3) == without::flops(3));
}

}  // namespace

TEMPLATE_TEST_CASE("residual is x + f(x), and dy + f'(x) dy", "[compose][residual]", float, double) {
    check_residual<TestType, mox::linear<7, 7, mox::bias::with>>();
    check_residual<TestType, mox::layer_norm<7>, mox::linear<7, 16>, mox::linear<16, 7>>();
    check_residual<
        TestType, mox::rms_norm<24>,
        mox::moe<mox::experts<3, mox::swiglu<24, 10>>, mox::route::top_k<2>, mox::null_experts<2>>>();
    check_residual<TestType, mox::residual<mox::linear<7, 7>>>();
}

TEST_CASE("a zero layer leaves the rows as they are", "[compose][residual]") {
    using net = mox::residual<mox::linear<9, 9>>;
    const mox::params<net> w;
    mox::tape<net> tape;
    const auto x = values::normal<float>(5, 9, 1);
    REQUIRE(values::copy(mox::forward<net>(w, x, tape)) == x);
}

TEST_CASE("maps into the residual stream start smaller with every addition", "[compose][residual]") {
    REQUIRE(mox::detail::residual_count<mox::linear<3, 3>>() == 0);
    REQUIRE(mox::detail::residual_count<mox::residual<mox::linear<3, 3>>>() == 1);
    REQUIRE(mox::detail::residual_count<
                mox::stack<mox::residual<mox::linear<3, 3>, mox::residual<mox::linear<3, 3>>>,
                           mox::residual<mox::linear<3, 3>>>>() == 3);
}

TEST_CASE("nested residuals pass gradcheck", "[compose][residual]") {
    const auto r =
        mox::gradcheck<mox::residual<mox::rms_norm<6>,
                                     mox::residual<mox::swiglu<6, 9>, mox::residual<mox::linear<6, 6>>>>>();
    INFO(r.message);
    REQUIRE(r.passed);
}
