#pragma once

// The plain twins of activation.hpp: numbers of any type, by the formulas.

#include <cmath>
#include <numbers>

#include <mox/core/config.hpp>

namespace mox::inline MOX_ABI::kernel::reference {

struct identity {
    template <class T>
    static T value(T a) {
        return a;
    }
    template <class T>
    static T derivative(T) {
        return T(1);
    }
};

/// max(a, 0).
struct relu {
    template <class T>
    static T value(T a) {
        return a > 0 ? a : T(0);
    }
    template <class T>
    static T derivative(T a) {
        return a > 0 ? T(1) : T(0);
    }
};

/// max(a, 0)^2.
struct relu_squared {
    template <class T>
    static T value(T a) {
        return a > 0 ? a * a : T(0);
    }
    template <class T>
    static T derivative(T a) {
        return a > 0 ? 2 * a : T(0);
    }
};

/// a sigmoid(a).
struct silu {
    template <class T>
    static T value(T a) {
        return a / (1 + std::exp(-a));
    }
    template <class T>
    static T derivative(T a) {
        const T s = 1 / (1 + std::exp(-a));
        return s + a * s * (1 - s);
    }
};

/// a Phi(a).
struct gelu {
    template <class T>
    static T value(T a) {
        return a * std::erfc(-a / std::numbers::sqrt2_v<T>) / 2;
    }
    template <class T>
    static T derivative(T a) {
        const T density = std::exp(-a * a / 2) * std::numbers::inv_sqrtpi_v<T> / std::numbers::sqrt2_v<T>;
        return std::erfc(-a / std::numbers::sqrt2_v<T>) / 2 + a * density;
    }
};

/// a (1 + tanh(sqrt(2 / pi) (a + 0.044715 a^3))) / 2.
struct gelu_tanh {
    template <class T>
    static T value(T a) {
        return a * (1 + std::tanh(inner(a))) / 2;
    }
    template <class T>
    static T derivative(T a) {
        const T t = std::tanh(inner(a)), slope = root<T>() * (1 + 3 * T(0.044715L) * a * a);
        return (1 + t + a * (1 - t * t) * slope) / 2;
    }

private:
    template <class T>
    static T root() {
        return std::numbers::sqrt2_v<T> * std::numbers::inv_sqrtpi_v<T>;
    }
    template <class T>
    static T inner(T a) {
        return root<T>() * (a + T(0.044715L) * a * a * a);
    }
};

}  // namespace mox::inline MOX_ABI::kernel::reference
