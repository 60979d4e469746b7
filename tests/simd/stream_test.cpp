#include <mox/simd/stream.hpp>

#include <vector>

#include <mox/core/buffer.hpp>
#include <mox/exec/thread_pool.hpp>

#include "../support/catch.hpp"

using namespace mox;

namespace {

// Every thread writes its part with streaming stores; after the fence and the end of the run all see them.
template <class T>
void check_stores() {
    constexpr index_t L = simd::lanes<T>;
    constexpr index_t parts = 8, size = parts * 64 * L;
    buffer<T> written(size + L);
    thread_pool pool(3);
    pool.run(parts, [&](index_t part) {
        for (index_t i = part * 64 * L; i < (part + 1) * 64 * L; i += L) {
            alignas(64) T values[static_cast<std::size_t>(L)];
            for (index_t j = 0; j < L; ++j) values[j] = static_cast<T>(i + j);
            simd::store_streaming(written.data() + i, simd::load<T>(values));
        }
        simd::stream_fence();
    });
    bool right = true;
    for (index_t i = 0; i < size; ++i) right = right && written[i] == static_cast<T>(i);
    CHECK(right);
    for (index_t i = size; i < size + L; ++i) CHECK(written[i] == T(0));
}

}  // namespace

TEST_CASE("stream: stores past the caches arrive", "[simd][stream]") {
    check_stores<float>();
    check_stores<double>();
}

TEST_CASE("stream: the largest cache has a size that caches have", "[simd][stream]") {
    const index_t bytes = simd::last_level_cache();
    CHECK(bytes >= index_t{64} << 10);
    CHECK(bytes <= index_t{16} << 30);
    CHECK(simd::last_level_cache() == bytes);
    CHECK(bytes <= simd::caches().last);
    CHECK(simd::caches().second >= index_t{64} << 10);
    CHECK(simd::caches().second <= simd::caches().last);
    simd::prefetch_near(nullptr);
    // Of a cache for a socket a core has a part.
    constexpr index_t mb = index_t{1} << 20;
    static_assert(simd::last_level_cache({mb, 96 * mb, false}) == 96 * mb);
    static_assert(simd::last_level_cache({2 * mb, 300 * mb, true}) == 32 * mb);
}
