#include <mox/kernel/top_set.hpp>

#include <algorithm>
#include <limits>
#include <vector>

#include <mox/core/random.hpp>
#include <mox/exec/thread_pool.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

// Larger is better, or larger in magnitude; each place has something added.
template <class T, bool Magnitude>
struct shifted {
    const T* by;
    simd::ordered<T> operator()(const simd::batch<T>& v, index_t i) const {
        const simd::batch<T> sum = v + simd::batch<T>(by[i]);
        return Magnitude ? simd::ordered<T>::magnitude(sum) : simd::ordered<T>(sum);
    }
    T plain(T v, int i) const { return Magnitude ? std::abs(v + by[i]) : v + by[i]; }
};

// `different` values, few of them not finite.
template <class T>
std::vector<T> some_values(index_t count, std::uint32_t different, bool finite) {
    const random_stream numbers(7, static_cast<std::uint64_t>(count));
    std::vector<T> values;
    for (index_t i = 0; i < count; ++i) {
        const std::uint32_t r = numbers.bits(static_cast<std::uint64_t>(i));
        const T nan = std::numeric_limits<T>::quiet_NaN(), infinity = std::numeric_limits<T>::infinity();
        values.push_back(finite        ? static_cast<T>(r % different) - static_cast<T>(different / 2)
                         : r % 97 == 0 ? nan
                         : r % 89 == 0 ? -nan
                         : r % 83 == 0 ? infinity
                         : r % 79 == 0 ? -infinity
                         : r % 7 == 0  ? T(-0.0)
                                       : static_cast<T>(r % different) - static_cast<T>(different / 2));
    }
    return values;
}

// The first K places in the order of top_k_row, ascending.
template <int K, int N, class T, bool Magnitude>
void check(index_t rows, std::uint32_t different, bool finite) {
    CAPTURE(K, N, rows, different, finite, Magnitude);
    const index_t stride = N + 3;
    const auto values = some_values<T>(rows * stride, different, finite);
    std::vector<T> by(static_cast<std::size_t>(N));
    for (int i = 0; i < N; ++i) by[static_cast<std::size_t>(i)] = static_cast<T>(i % 3 - 1);
    const shifted<T, Magnitude> key{by.data()};
    const matrix_view<const T> all(values.data(), rows, N, stride);
    std::vector<row_t> expected, chosen(static_cast<std::size_t>(rows * K + 1), -7);
    for (index_t t = 0; t < rows; ++t) {
        std::vector<T> keys;
        for (int i = 0; i < N; ++i) keys.push_back(key.plain(all(t, i), i));
        std::vector<row_t> best(K);
        kernel::top_k_row<T>(keys.data(), N, K, best.data());
        std::sort(best.begin(), best.end());
        expected.insert(expected.end(), best.begin(), best.end());
    }
    expected.push_back(-7);
    kernel::top_set_rows<K, N, T>({}, all, key, chosen.data());
    CHECK(chosen == expected);
    thread_pool three(3);
    std::fill(chosen.begin(), chosen.end(), row_t{-7});
    kernel::top_set_rows<K, N, T>(three, all, key, chosen.data());
    CHECK(chosen == expected);
}

template <int K, int N, class T>
void check_all() {
    for (const index_t rows : {0, 1, 15, 67, 600}) {
        for (const bool finite : {true, false}) {
            check<K, N, T, false>(rows, 5, finite);
            check<K, N, T, false>(rows, 1000000, finite);
            check<K, N, T, true>(rows, 1000000, finite);
        }
    }
}

}  // namespace

TEMPLATE_TEST_CASE("top_set: the choice of top_k_row, in the order of places", "[kernel][top_set]", float,
                   double) {
    using T = TestType;
    check_all<1, 1, T>();
    check_all<1, 8, T>();
    check_all<2, 6, T>();
    check_all<3, 9, T>();
    check_all<4, 4, T>();
    check_all<8, 32, T>();
    check_all<7, 31, T>();
    check_all<8, 33, T>();
    check_all<5, 70, T>();
    check_all<20, 64, T>();
    check_all<9, 130, T>();
}

TEST_CASE("top_set: of equal values the first are taken, of NaN only when nothing else is left",
          "[kernel][top_set]") {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> zero(6, 0.0f);
    const shifted<float, false> key{zero.data()};
    const std::vector<float> values{0,   -0.0f, 0,   0, 0,    0,     //
                                    nan, 1,     nan, 2, 2,    2,     //
                                    nan, -nan,  3,   1, -nan, nan};  //
    std::vector<row_t> chosen(9);
    kernel::top_set_rows<3, 6, float>({}, matrix_view<const float>(values.data(), 3, 6), key, chosen.data());
    CHECK(chosen == std::vector<row_t>{0, 1, 2, 3, 4, 5, 0, 2, 3});
}
