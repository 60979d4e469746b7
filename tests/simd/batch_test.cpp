#include <mox/simd/batch.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "../support/catch.hpp"

using namespace mox;

namespace {

template <class T>
void check_registers() {
    constexpr index_t L = simd::lanes<T>;
    std::vector<T> in, out(static_cast<std::size_t>(L) + 1);
    for (index_t i = 0; i < L; ++i) in.push_back(static_cast<T>((i * 7) % 5 - 2));
    for (index_t n = 0; n <= L; ++n) {
        out.assign(out.size(), T(-9));
        simd::store(out.data(), simd::load_upto<T>(in.data(), n));
        for (index_t i = 0; i < L; ++i)
            CHECK(out[static_cast<std::size_t>(i)] == (i < n ? in[static_cast<std::size_t>(i)] : T(0)));
        CHECK(out.back() == T(-9));
        out.assign(out.size(), T(-9));
        simd::store_upto(out.data(), simd::load<T>(in.data()), n);
        for (index_t i = 0; i <= L; ++i)
            CHECK(out[static_cast<std::size_t>(i)] == (i < n ? in[static_cast<std::size_t>(i)] : T(-9)));
    }
    T sum = 0, best = in[0];
    for (T v : in) {
        sum += v;
        best = v > best ? v : best;
    }
    const auto v = simd::load<T>(in.data());
    CHECK(simd::reduce_add(v) == sum);
    CHECK(simd::reduce_max(v) == best);
    simd::store(out.data(), simd::fma(v, v, simd::batch<T>(T(1))));
    for (index_t i = 0; i < L; ++i) {
        const T x = in[static_cast<std::size_t>(i)];
        CHECK(out[static_cast<std::size_t>(i)] == x * x + 1);
    }
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
    // One rounding where the machine has the operation, whatever the compiler makes of products and sums.
    const T tiny = std::ldexp(T(1), -std::numeric_limits<T>::digits / 2 - 1);
    // Numbers the compiler does not know: it may round twice what it computes itself.
    volatile T hidden = T(1) + tiny;
    const simd::batch<T> near_one(hidden);
    CHECK(simd::reduce_max(simd::fma(near_one, near_one, simd::batch<T>(-(T(1) + 2 * tiny)))) == tiny * tiny);
#endif
}

}  // namespace

TEST_CASE("simd: loads, stores and reductions", "[simd][batch]") {
    check_registers<float>();
    check_registers<double>();
}

TEST_CASE("simd: steps cover a row once, the last one shorter", "[simd][batch]") {
    constexpr index_t L = simd::lanes<float>;
    for (index_t size = 0; size <= 3 * L + 1; ++size) {
        index_t next = 0;
        simd::for_each<float>(size, [&](index_t offset, index_t count) {
            CHECK(offset == next);
            CHECK((count == L || offset + count == size));
            CHECK(count > 0);
            next += count;
        });
        CHECK(next == size);
    }
}
