#include <mox/compose/stack.hpp>

#include <type_traits>
#include <vector>

#include <mox/compose/residual.hpp>
#include <mox/layer/attention.hpp>
#include <mox/layer/linear.hpp>
#include <mox/layer/moe.hpp>
#include <mox/layer/norm.hpp>
#include <mox/model/run.hpp>
#include <mox/train/gradcheck.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;

constexpr mox::attention_spec heads{.width = 8, .heads = 2};
using first = mox::linear<6, 8, mox::bias::with>;
using second = mox::residual<mox::rms_norm<8>, mox::attention<heads>>;
using third =
    mox::residual<mox::moe<mox::experts<3, mox::swiglu<8, 12>>, mox::route::top_k<2>, mox::balance::load<>>>;
using fourth = mox::linear<8, 3>;

template <class T>
struct outcome {
    values::matrix<T> y, inferred, dx;
    std::vector<std::vector<T>> grads;
    T aux = 0;
    bool operator==(const outcome&) const = default;
};

// Runs a network whose tensors, in order, are those of `numbers`.
template <class Net, class T>
outcome<T> run(const std::vector<std::vector<T>>& numbers) {
    mox::params<Net, T> w, g;
    const auto tensors = mox::params<Net, T>::tensors();
    REQUIRE(tensors.size() == numbers.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) w.write(tensors[i], numbers[i]);
    mox::tape<Net, T> tape;
    const mox::batch rows = mox::batch::ragged({9, 0, 4});
    const auto x = values::normal<T>(13, Net::in, 1), dy = values::normal<T>(13, Net::out, 2);
    outcome<T> o;
    o.inferred = values::copy(mox::infer<Net>(w, x, rows, tape));
    o.y = values::copy(mox::forward<Net>(w, x, rows, tape));
    o.aux = tape.aux_loss();
    values::assign(tape.output_grad(), dy);
    o.dx = values::matrix<T>(13, Net::in);
    mox::backward<Net>(w, tape, g, o.dx);
    for (const auto& t : tensors) o.grads.push_back(g.read(t));
    return o;
}

}  // namespace

TEMPLATE_TEST_CASE("nested stacks equal the flat one bit for bit", "[compose][stack]", float, double) {
    using T = TestType;
    using flat = mox::stack<first, second, third, fourth>;
    const mox::params<flat, T> w{mox::init::standard, 4};
    std::vector<std::vector<T>> numbers;
    for (const auto& t : mox::params<flat, T>::tensors()) numbers.push_back(w.read(t));
    const auto want = run<flat, T>(numbers);
    REQUIRE(want.aux > T(0));
    REQUIRE(values::largest_difference(want.y, values::matrix<T>(13, 3)) > 0.01);
    REQUIRE(run<mox::stack<mox::stack<first, second>, mox::stack<third, fourth>>, T>(numbers) == want);
    REQUIRE(run<mox::stack<first, mox::stack<second, mox::stack<third, mox::stack<fourth>>>>, T>(numbers) ==
            want);
    REQUIRE(run<mox::stack<mox::stack<mox::stack<first>, second>, third, fourth>, T>(numbers) == want);
    REQUIRE(run<mox::stack<mox::stack<flat>>, T>(numbers) == want);
    // Other numbers give another outcome.
    numbers[0][0] += T(1);
    REQUIRE_FALSE(run<flat, T>(numbers) == want);
}

TEST_CASE("a stack is its layers one after the other", "[compose][stack]") {
    using flat = mox::stack<first, second, third, fourth>;
    const mox::params<flat, double> w{mox::init::standard, 4};
    mox::tape<flat, double> tape;
    const auto x = values::normal<double>(13, 6, 1);
    const auto y = values::copy(mox::infer<flat>(w, x, tape));
    auto current = x;
    std::size_t next = 0;
    const auto tensors = mox::params<flat, double>::tensors();
    const auto apply = [&]<class L>(std::type_identity<L>) {
        mox::params<L, double> own;
        for (const auto& t : mox::params<L, double>::tensors()) own.write(t, w.read(tensors[next++]));
        mox::tape<L, double> single;
        current = values::copy(mox::infer<L>(own, current, single));
    };
    apply(std::type_identity<first>{});
    apply(std::type_identity<second>{});
    apply(std::type_identity<third>{});
    apply(std::type_identity<fourth>{});
    REQUIRE(next == tensors.size());
    REQUIRE(current == y);
}

TEST_CASE("widths, input kind and operations of a stack", "[compose][stack]") {
    using rows = mox::stack<first, second, fourth>;
    STATIC_REQUIRE(rows::in == 6);
    STATIC_REQUIRE(rows::out == 3);
    STATIC_REQUIRE(std::is_void_v<rows::input>);
    STATIC_REQUIRE(std::is_same_v<mox::input_of<rows, float>, mox::matrix_view<const float>>);
    REQUIRE(rows::flops(10) == first::flops(10) + second::flops(10) + fourth::flops(10));
    using ids = mox::stack<mox::stack<mox::embedding<5, 6>>, first>;
    STATIC_REQUIRE(ids::in == 5);
    STATIC_REQUIRE(std::is_same_v<mox::input_of<ids, float>, mox::token_ids>);
}

TEST_CASE("composed networks pass gradcheck", "[compose][stack]") {
    const auto a = mox::gradcheck<mox::stack<first, mox::stack<second, third>, fourth>>();
    INFO(a.message);
    REQUIRE(a.passed);
    const auto b =
        mox::gradcheck<mox::stack<mox::embedding<7, 6>, first, second, third, fourth>>({.tokens = 11});
    INFO(b.message);
    REQUIRE(b.passed);
}
