// Initial values are a function of the seed, the tensor, the expert and the position only.

#include <cmath>
#include <string>
#include <vector>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/values.hpp"

namespace {

using mox::index_t;

constexpr index_t D = 20;
constexpr mox::attention_spec heads{.width = D, .heads = 2};
template <index_t E>
using net = mox::stack<
    mox::embedding<11, D>, mox::residual<mox::rms_norm<D>, mox::attention<heads>>,
    mox::residual<mox::layer_norm<D>, mox::moe<mox::experts<E, mox::swiglu<D, 30>>, mox::route::top_k<2>>>,
    mox::linear<D, 11, mox::bias::with>>;

}  // namespace

TEST_CASE("the same seed gives the same numbers, in float and double up to rounding", "[property][seed]") {
    const mox::params<net<4>, double> d{mox::init::standard, 42}, again{mox::init::standard, 42};
    const mox::params<net<4>, float> f{mox::init::standard, 42};
    const mox::params<net<4>, double> other{mox::init::standard, 43};
    for (const auto& t : mox::params<net<4>, double>::tensors()) {
        INFO(t.path);
        const auto a = d.read(t), b = again.read(t), c = other.read(t);
        const auto s = f.read(t.path);
        REQUIRE(values::same_bits(a, b));
        REQUIRE(s.size() == a.size());
        bool differs = false;
        for (std::size_t i = 0; i < a.size(); ++i) {
            REQUIRE(s[i] == static_cast<float>(a[i]));
            differs = differs || a[i] != c[i];
        }
        const bool constant = t.spec.init == mox::fill::ones || t.spec.init == mox::fill::zeros;
        REQUIRE(differs == !constant);
        if (constant) {
            for (const double x : a) REQUIRE(x == (t.spec.init == mox::fill::ones ? 1.0 : 0.0));
        }
    }
    // Also the padding is the same: nothing.
    REQUIRE(values::same_bits(std::vector<double>(d.flat().begin(), d.flat().end()),
                              std::vector<double>(again.flat().begin(), again.flat().end())));
}

TEST_CASE("an expert does not depend on how many others there are", "[property][seed]") {
    const mox::params<net<2>, float> two{mox::init::standard, 7};
    const mox::params<net<5>, float> five{mox::init::standard, 7};
    for (const std::string tensor : {"2.1.gate_up", "2.1.down"}) {
        INFO(tensor);
        const auto a = two.read(tensor), b = five.read(tensor);
        REQUIRE(a.size() * 5 == b.size() * 2);
        REQUIRE(std::equal(a.begin(), a.end(), b.begin()));
        // Experts differ from each other.
        const std::size_t one = a.size() / 2;
        REQUIRE_FALSE(std::equal(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(one),
                                 a.begin() + static_cast<std::ptrdiff_t>(one)));
    }
    // Tensors behind the bank are untouched by its size.
    REQUIRE(values::same_bits(two.read("3.weight"), five.read("3.weight")));
}

TEST_CASE("standard deviations are those of the definition", "[property][seed]") {
    using wide =
        mox::stack<mox::embedding<400, 64>, mox::residual<mox::rms_norm<64>, mox::mlp<64, 256>>,
                   mox::residual<mox::rms_norm<64>,
                                 mox::moe<mox::experts<4, mox::swiglu<64, 100>>, mox::route::top_k<1>>>,
                   mox::linear<64, 300>>;
    const mox::params<wide, double> w{mox::init::standard, 3};
    const auto deviation = [&](const char* path) {
        double sum = 0, squares = 0;
        const auto v = w.read(path);
        for (const double x : v) {
            sum += x;
            squares += x * x;
        }
        const double n = static_cast<double>(v.size());
        const double s = std::sqrt(squares / n);
        REQUIRE(std::abs(sum / n) < 5 * s / std::sqrt(n));
        return s;
    };
    // Relative error of a deviation from n numbers: 1 / sqrt(2 n); five of them.
    const auto near = [](double want, double n) { return Approx(want).epsilon(5 / std::sqrt(2 * n)); };
    REQUIRE(deviation("0.table") == near(0.02, 400 * 64));
    REQUIRE(deviation("1.1.up") == near(1.0 / 8, 64 * 256));
    REQUIRE(deviation("1.1.down") == near(1.0 / 16 / std::sqrt(2.0), 64 * 256));
    REQUIRE(deviation("2.1.router") == near(0.02, 64 * 4));
    REQUIRE(deviation("2.1.gate_up") == near(1.0 / 8, 4 * 64 * 200));
    REQUIRE(deviation("2.1.down") == near(0.1 / std::sqrt(2.0), 4 * 64 * 100));
    REQUIRE(deviation("3.weight") == near(1.0 / 8, 64 * 300));
}
