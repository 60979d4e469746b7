#include <mox/simd/half.hpp>

#include <mox/simd/batch.hpp>

#include "../support/catch.hpp"

using namespace mox;

TEMPLATE_TEST_CASE("half_register: the same sums as a full one", "[simd]", float, double) {
    using T = TestType;
    if constexpr (simd::has_half<T>) {
        using half = simd::half_register<T>;
        constexpr index_t L = simd::lanes<T>;
        static_assert(2 * half::lanes == L && 2 * sizeof(half) == sizeof(T) * static_cast<std::size_t>(L));
        alignas(64) T row[L], full[L];
        T out[L];
        for (index_t i = 0; i < L; ++i) row[i] = T(1) / static_cast<T>(3 + i);
        half sum{};
        simd::batch<T> wide(T(0));
        for (int step = 1; step < 50; ++step) {
            const T factor = T(1) / static_cast<T>(step);
            sum = half::add_product(factor, half::load(row), sum);
            wide = simd::fma(simd::batch<T>(factor), simd::load<T>(row), wide);
        }
        for (T& v : out) v = T(-7);
        sum.store(out);
        simd::store(full, wide);
        for (index_t i = 0; i < half::lanes; ++i) CHECK(out[i] == full[i]);
        for (index_t i = half::lanes; i < L; ++i) CHECK(out[i] == T(-7));
    } else {
        CHECK(simd::lanes<T> * static_cast<index_t>(sizeof(T)) < 64);
    }
}
