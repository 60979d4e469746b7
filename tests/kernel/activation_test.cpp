#include <mox/kernel/activation.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "../support/catch.hpp"

using namespace mox;

namespace {

const double pi = std::acos(-1.0);

// Values in extended precision, derivatives by central differences of them.
struct plain_identity {
    static long double at(long double a) { return a; }
};
struct plain_relu {
    static long double at(long double a) { return a > 0 ? a : 0; }
};
struct plain_relu_squared {
    static long double at(long double a) { return a > 0 ? a * a : 0; }
};
struct plain_silu {
    static long double at(long double a) { return a / (1 + std::exp(-a)); }
};
struct plain_gelu {
    static long double at(long double a) { return 0.5L * a * std::erfc(-a / std::sqrt(2.0L)); }
};
struct plain_gelu_tanh {
    static long double at(long double a) {
        return 0.5L * a *
               (1 + std::tanh(std::sqrt(2.0L / static_cast<long double>(pi)) * (a + 0.044715L * a * a * a)));
    }
};

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
        const double expected = static_cast<double>(Plain::at(a));
        const double slope = static_cast<double>((Plain::at(a + 1e-6L) - Plain::at(a - 1e-6L)) / 2e-6L);
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
    // The numeric derivative of the reference is good to about 1e-10.
    check_activation<Act, Plain, double>(5e-15, 1e-9);
    check_activation<Act, Plain, float>(2e-6, 3e-6);
}

}  // namespace

TEST_CASE("activation: values and derivatives", "[kernel][activation]") {
    check_both<activation::identity, plain_identity>();
    check_both<activation::relu, plain_relu>();
    check_both<activation::relu_squared, plain_relu_squared>();
    check_both<activation::silu, plain_silu>();
    check_both<activation::gelu, plain_gelu>();
    check_both<activation::gelu_tanh, plain_gelu_tanh>();
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
