#pragma once

// Activations as policies: value and derivative of one register (or one number).

#include <cmath>
#include <concepts>
#include <numbers>
#include <string_view>
#include <type_traits>

#include <mox/simd/batch.hpp>
#include <mox/simd/exp_weight.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

// Functions that read the same for a register and for a number.
template <class V>
struct lane_traits {
    using scalar = V;
    static V exp(V x) { return std::exp(x); }
    static V exp_of_negated(V x) { return std::exp(-x); }
    static V erf(V x) { return std::erf(x); }
    static V tanh(V x) { return std::tanh(x); }
    static V positive(V x) { return x < V(0) ? V(0) : x; }  // NaN stays NaN
    static V step(V x, V y) { return x > V(0) ? y : (x <= V(0) ? V(0) : x); }
};

template <class T, class A>
struct lane_traits<xsimd::batch<T, A>> {
    using scalar = T;
    using V = xsimd::batch<T, A>;
    static V exp(const V& x) { return xsimd::exp(x); }
    // exp(-x) for sums 1 + exp(-x), which it does not change below 2^-24. Float: held at 2^127, so that no
    // sum is infinite (measured: half the time of the general exponential, 15 % of a narrow expert's
    // epilogue).
    static V exp_of_negated(const V& x) {
        if constexpr (std::is_same_v<T, float>) {
            return simd::weight(simd::min(V(127.0f), x * V(-simd::weight_unit<float>)));
        } else {
            return xsimd::exp(-x);
        }
    }
    static V tanh(const V& x) { return xsimd::tanh(x); }
    static V positive(const V& x) { return xsimd::select(x < V(T(0)), V(T(0)), x); }
    static V step(const V& x, const V& y) {
        return xsimd::select(x > V(T(0)), y, xsimd::select(x <= V(T(0)), V(T(0)), x));
    }
    // Float: within 1e-7 of the exact value (measured over [-6, 6]). Double lane by lane: the library's
    // vector erf has float accuracy on some versions.
    static V erf(const V& x) {
        if constexpr (std::is_same_v<T, float>) return xsimd::erf(x);
        alignas(64) T values[V::size];
        x.store_aligned(values);
        for (auto& v : values) v = std::erf(v);
        return V::load_aligned(values);
    }
};

}  // namespace detail

/// Each activation has value(a) and derivative(a), for float and double, registers and numbers.
namespace activation {

struct identity {
    static constexpr std::string_view name = "identity";
    template <class V>
    static V value(const V& a) {
        return a;
    }
    template <class V>
    static V derivative(const V&) {
        return V(typename mox::detail::lane_traits<V>::scalar(1));
    }
};

/// max(a, 0); the derivative at 0 is 0.
struct relu {
    static constexpr std::string_view name = "relu";
    template <class V>
    static V value(const V& a) {
        return mox::detail::lane_traits<V>::positive(a);
    }
    template <class V>
    static V derivative(const V& a) {
        return mox::detail::lane_traits<V>::step(a, V(typename mox::detail::lane_traits<V>::scalar(1)));
    }
};

/// max(a, 0)^2 (Primer, arXiv 2109.08668).
struct relu_squared {
    static constexpr std::string_view name = "relu_squared";
    template <class V>
    static V value(const V& a) {
        const V r = relu::value(a);
        return r * r;
    }
    template <class V>
    static V derivative(const V& a) {
        return relu::value(a) * V(typename mox::detail::lane_traits<V>::scalar(2));
    }
};

/// a sigmoid(a). Where exp(-a) would overflow, the result is below 1e-36 in absolute value.
struct silu {
    static constexpr std::string_view name = "silu";
    template <class V>
    static V value(const V& a) {
        using traits = mox::detail::lane_traits<V>;
        const V one(typename traits::scalar(1));
        return a / (one + traits::exp_of_negated(a));
    }
    template <class V>
    static V derivative(const V& a) {
        using traits = mox::detail::lane_traits<V>;
        const V one(typename traits::scalar(1));
        const V s = one / (one + traits::exp_of_negated(a));
        return s * (one + a * (one - s));
    }
};

/// a Phi(a) with the normal distribution function, exact (erf). Checkpoints differ between this and
/// gelu_tanh.
struct gelu {
    static constexpr std::string_view name = "gelu";
    template <class V>
    static V value(const V& a) {
        using traits = mox::detail::lane_traits<V>;
        using T = typename traits::scalar;
        return V(T(0.5)) * a * (V(T(1)) + traits::erf(a * V(T(std::numbers::sqrt2 / 2))));
    }
    template <class V>
    static V derivative(const V& a) {
        using traits = mox::detail::lane_traits<V>;
        using T = typename traits::scalar;
        const V phi = V(T(0.5)) * (V(T(1)) + traits::erf(a * V(T(std::numbers::sqrt2 / 2))));
        const V density =
            traits::exp(V(T(-0.5)) * a * a) * V(T(std::numbers::inv_sqrtpi / std::numbers::sqrt2));
        return phi + a * density;
    }
};

/// The tanh approximation of gelu.
struct gelu_tanh {
    static constexpr std::string_view name = "gelu_tanh";
    template <class V>
    static V value(const V& a) {
        using traits = mox::detail::lane_traits<V>;
        using T = typename traits::scalar;
        return V(T(0.5)) * a * (V(T(1)) + traits::tanh(inner(a)));
    }
    template <class V>
    static V derivative(const V& a) {
        using traits = mox::detail::lane_traits<V>;
        using T = typename traits::scalar;
        const V t = traits::tanh(inner(a));
        const V slope = V(T(root)) * (V(T(1)) + V(T(3 * cubic)) * a * a);
        return V(T(0.5)) * (V(T(1)) + t) + V(T(0.5)) * a * (V(T(1)) - t * t) * slope;
    }

private:
    static constexpr double root = 0.79788456080286535588;  // sqrt(2 / pi)
    static constexpr double cubic = 0.044715;
    template <class V>
    static V inner(const V& a) {
        using T = typename mox::detail::lane_traits<V>::scalar;
        return V(T(root)) * (a + V(T(cubic)) * a * a * a);
    }
};

}  // namespace activation

/// What the activation slot of a feed-forward network takes.
template <class A>
concept activation_function = requires(simd::batch<float> f, double d) {
    { A::value(f) } -> std::same_as<simd::batch<float>>;
    { A::derivative(f) } -> std::same_as<simd::batch<float>>;
    { A::value(d) } -> std::same_as<double>;
    { A::derivative(d) } -> std::same_as<double>;
};

}  // namespace mox::inline MOX_ABI
