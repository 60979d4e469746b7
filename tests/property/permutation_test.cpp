// A mixture of experts treats every token alone: permuted tokens give permuted outputs, bit for bit.

#include <numeric>
#include <vector>

#include <mox/compose/stack.hpp>
#include <mox/layer/moe.hpp>
#include <mox/model/run.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;

std::vector<index_t> permutation(index_t n, std::uint64_t seed) {
    std::vector<index_t> p(static_cast<std::size_t>(n));
    std::iota(p.begin(), p.end(), index_t{0});
    const mox::random_stream numbers(seed, 1);
    for (std::size_t i = p.size(); i > 1; --i) std::swap(p[i - 1], p[numbers.bits(i) % i]);
    return p;
}

template <class T>
values::matrix<T> permuted(const values::matrix<T>& m, const std::vector<index_t>& p) {
    values::matrix<T> out(m.rows(), m.cols());
    for (index_t i = 0; i < m.rows(); ++i) {
        for (index_t j = 0; j < m.cols(); ++j) out(i, j) = m(p[static_cast<std::size_t>(i)], j);
    }
    return out;
}

template <class Net, class T>
void check_permutations(index_t rows) {
    const mox::params<Net, T> w{mox::init::standard, 6};
    mox::params<Net, T> g;
    mox::tape<Net, T> tape;
    const auto x = values::normal<T>(rows, Net::in, 1);
    const auto dy = values::normal<T>(rows, Net::in, 2);
    const auto run = [&](const values::matrix<T>& in, const values::matrix<T>& up, values::matrix<T>& dx) {
        const auto y = values::copy(mox::forward<Net>(w, in, tape));
        values::assign(tape.output_grad(), up);
        mox::backward<Net>(w, tape, g, mox::matrix_view<T>(dx.data(), dx.rows(), dx.cols()));
        return y;
    };
    values::matrix<T> dx(rows, Net::in), dxp(rows, Net::in);
    const auto y = run(x, dy, dx);
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
        const auto p = permutation(rows, seed);
        const auto yp = run(permuted(x, p), permuted(dy, p), dxp);
        REQUIRE(yp == permuted(y, p));
        REQUIRE(dxp == permuted(dx, p));
        if (rows > 3) REQUIRE_FALSE(yp == y);
    }
}

}  // namespace

TEMPLATE_TEST_CASE("permuting the tokens permutes outputs and input gradients", "[property][permutation]",
                   float, double) {
    using T = TestType;
    using swiglu = mox::swiglu<24, 36>;
    using mlp = mox::mlp<24, 36, mox::activation::gelu, mox::bias::with>;
    for (const index_t rows : {1, 2, 7, 50, 129}) {
        check_permutations<mox::stack<mox::moe<mox::experts<6, swiglu>, mox::route::top_k<2>>>, T>(rows);
        check_permutations<mox::stack<mox::moe<mox::experts<3, mlp>, mox::route::top_k<3>>>, T>(rows);
        check_permutations<
            mox::stack<mox::moe<mox::experts<6, swiglu>, mox::route::top_k<4>, mox::null_experts<5>,
                                mox::gate::softmax, mox::shared<mox::swiglu<24, 12>>>>,
            T>(rows);
    }
}
