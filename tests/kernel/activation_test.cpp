#include <mox/kernel/activation.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <mox/kernel/reference/activation.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

namespace plain = kernel::reference;

// Registers and numbers give the same function.
template <class Act, class T>
void through_registers(const std::vector<T>& in, std::vector<T>& value, std::vector<T>& derivative) {
    constexpr index_t L = simd::lanes<T>;
    for (std::size_t i = 0; i < in.size(); i += static_cast<std::size_t>(L)) {
        T v[static_cast<std::size_t>(L)], d[static_cast<std::size_t>(L)];
        const index_t n = std::min<index_t>(L, static_cast<index_t>(in.size() - i));
        const auto a = simd::load_first<T>(in.data() + i, n);
        simd::store(v, Act::value(a));
        simd::store(d, Act::derivative(a));
        value.insert(value.end(), v, v + n);
        derivative.insert(derivative.end(), d, d + n);
    }
}

template <class Act, class Plain, class T>
void check_activation(double bound, double derivative_bound) {
    static_assert(activation_function<Act>);
    std::vector<T> in, value, derivative;
    for (double a = -12; a <= 12; a += 0.0437) in.push_back(static_cast<T>(a));
    for (const double a : {-1e3, -100.0, -30.0, 30.0, 100.0, 1e3}) in.push_back(static_cast<T>(a));
    through_registers<Act>(in, value, derivative);
    for (std::size_t i = 0; i < in.size(); ++i) {
        const long double a = static_cast<long double>(in[i]);
        const double expected = static_cast<double>(Plain::value(a));
        const double slope = static_cast<double>(Plain::derivative(a));
        CAPTURE(in[i]);
        CHECK(std::abs(static_cast<double>(value[i]) - expected) <=
              bound * std::max(1.0, std::abs(expected)));
        CHECK(std::abs(static_cast<double>(Act::value(in[i])) - expected) <=
              bound * std::max(1.0, std::abs(expected)));
        CHECK(std::abs(static_cast<double>(derivative[i]) - slope) <=
              derivative_bound * std::max(1.0, std::abs(slope)));
        CHECK(std::abs(static_cast<double>(Act::derivative(in[i])) - slope) <=
              derivative_bound * std::max(1.0, std::abs(slope)));
    }
    const T absent = std::numeric_limits<T>::quiet_NaN();
    std::vector<T> v, d;
    through_registers<Act>(std::vector<T>{absent}, v, d);
    CHECK(std::isnan(v[0]));
    CHECK(std::isnan(Act::value(absent)));
    if (Act::name != "identity") {
        CHECK(std::isnan(d[0]));
        CHECK(std::isnan(Act::derivative(absent)));
    }
}

template <class Act, class Plain>
void check_both() {
    check_activation<Act, Plain, double>(5e-15, 1e-14);
    check_activation<Act, Plain, float>(2e-6, 3e-6);
}

}  // namespace

TEST_CASE("activation: values and derivatives against their plain twins in extended precision",
          "[kernel][activation]") {
    check_both<activation::identity, plain::identity>();
    check_both<activation::relu, plain::relu>();
    check_both<activation::relu_squared, plain::relu_squared>();
    check_both<activation::silu, plain::silu>();
    check_both<activation::gelu, plain::gelu>();
    check_both<activation::gelu_tanh, plain::gelu_tanh>();
}

TEST_CASE("activation: zero", "[kernel][activation]") {
    CHECK(activation::relu::value(0.0) == 0.0);
    CHECK(activation::relu::derivative(0.0) == 0.0);
    CHECK(activation::relu_squared::derivative(0.0) == 0.0);
    CHECK(activation::silu::value(0.0) == 0.0);
    CHECK(activation::silu::derivative(0.0) == 0.5);
    CHECK(activation::gelu::value(0.0) == 0.0);
    CHECK(activation::gelu::derivative(0.0) == 0.5);
    CHECK(activation::gelu_tanh::derivative(0.0) == 0.5);
}
