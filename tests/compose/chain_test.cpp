#include <mox/compose/chain.hpp>

#include <vector>

#include <mox/compose/repeat.hpp>
#include <mox/compose/residual.hpp>
#include <mox/compose/stack.hpp>
#include <mox/layer/linear.hpp>
#include <mox/layer/norm.hpp>
#include <mox/model/run.hpp>
#include <mox/train/gradcheck.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;

// Widths that go up and down, so that the two buffers that take turns are wider than most rows.
using hourglass = mox::stack<mox::linear<5, 40>, mox::linear<40, 3>, mox::linear<3, 33>, mox::rms_norm<33>,
                             mox::linear<33, 1>, mox::linear<1, 17>, mox::linear<17, 2>>;

template <class Net>
std::size_t inference_bytes(index_t rows) {
    const mox::params<Net> w{mox::init::standard, 1};
    mox::tape<Net> tape;
    const auto x = values::normal<float>(rows, Net::in, 1);
    for (int i = 0; i < 3; ++i) (void)mox::infer<Net>(w, x, tape);
    return tape.bytes();
}

}  // namespace

TEST_CASE("widths may change from layer to layer", "[compose][chain]") {
    STATIC_REQUIRE(mox::detail::chain<hourglass>::widest == 40);
    STATIC_REQUIRE(mox::detail::chain<hourglass>::steps == 7);
    const mox::params<hourglass, double> w{mox::init::standard, 1};
    mox::tape<hourglass, double> tape;
    for (const index_t rows : {0, 1, 2, 7, 65}) {
        const auto x = values::normal<double>(rows, 5, 1);
        const auto y = values::copy(mox::forward<hourglass>(w, x, tape));
        REQUIRE(y == values::copy(mox::infer<hourglass>(w, x, tape)));
    }
    const auto r = mox::gradcheck<hourglass>({.input_scale = 2.0});
    INFO(r.message);
    REQUIRE(r.passed);
}

TEST_CASE("inference does not keep the activations of every layer", "[compose][chain]") {
    using layer = mox::residual<mox::rms_norm<64>, mox::linear<64, 64>>;
    const std::size_t few = inference_bytes<mox::repeat<2, layer>>(1000);
    const std::size_t many = inference_bytes<mox::repeat<40, layer>>(1000);
    REQUIRE(few > 1000 * 64 * sizeof(float));
    REQUIRE(many < few + few / 2);
    // Training does.
    const mox::params<mox::repeat<40, layer>> w{mox::init::standard, 1};
    mox::tape<mox::repeat<40, layer>> tape;
    (void)mox::forward<mox::repeat<40, layer>>(w, values::normal<float>(1000, 64, 1), tape);
    REQUIRE(tape.bytes() > 40 * 1000 * 64 * sizeof(float));
}

TEST_CASE("a single layer writes straight to its output", "[compose][chain]") {
    using one = mox::stack<mox::linear<4, 6>>;
    STATIC_REQUIRE(mox::detail::chain<one>::steps == 1);
    const mox::params<one, double> w{mox::init::standard, 1};
    mox::params<mox::linear<4, 6>, double> bare;
    bare.write("weight", w.read("0.weight"));
    mox::tape<one, double> a;
    mox::tape<mox::linear<4, 6>, double> b;
    const auto x = values::normal<double>(9, 4, 1);
    REQUIRE(values::copy(mox::infer<one>(w, x, a)) ==
            values::copy(mox::infer<mox::linear<4, 6>>(bare, x, b)));
}

TEST_CASE("the input keeps its numbers", "[compose][chain]") {
    const mox::params<hourglass, double> w{mox::init::standard, 1};
    mox::params<hourglass, double> g;
    mox::tape<hourglass, double> tape;
    const auto x = values::normal<double>(9, 5, 1);
    const auto before = x;
    (void)mox::infer<hourglass>(w, x, tape);
    (void)mox::forward<hourglass>(w, x, tape);
    const auto dy = values::normal<double>(9, 2, 2);
    values::assign(tape.output_grad(), dy);
    values::matrix<double> dx(9, 5);
    mox::backward<hourglass>(w, tape, g, dx);
    REQUIRE(x == before);
    REQUIRE(values::copy(tape.output_grad()) == dy);
}
