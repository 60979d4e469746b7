#pragma once

// Stores past the caches, for results that no cache would hold until they are read. An ordinary store reads
// its cache line first; a streaming one does not, so a copy larger than the caches moves two thirds of the
// bytes, and what the caches hold stays there.

#include <mox/simd/batch.hpp>
#include <mox/simd/resolve.hpp>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace mox::inline MOX_ABI::simd {

/// Whether store_streaming goes past the caches; elsewhere it is an ordinary store. (ARM64 has a hint only,
/// and not one for a single register.)
template <class T, class Arch = default_arch>
inline constexpr bool has_streaming =
#if defined(__SSE2__)
    std::is_same_v<T, float> || std::is_same_v<T, double>;
#else
    false;
#endif

/// Writes a whole register to p, a multiple of its size. Other threads may see it late: whoever hands the
/// result on calls stream_fence() first.
template <class T, class Arch>
MOX_INLINE void store_streaming(T* p, const batch<T, Arch>& v) noexcept {
    [[maybe_unused]] constexpr std::size_t bytes = sizeof(batch<T, Arch>);
#if defined(__SSE2__)
    [[maybe_unused]] constexpr bool is_float = std::is_same_v<T, float>,
                                    is_double = std::is_same_v<T, double>;
#if defined(__AVX512F__)
    if constexpr (bytes == 64 && is_float) return _mm512_stream_ps(p, v);
    if constexpr (bytes == 64 && is_double) return _mm512_stream_pd(p, v);
#endif
#if defined(__AVX__)
    if constexpr (bytes == 32 && is_float) return _mm256_stream_ps(p, v);
    if constexpr (bytes == 32 && is_double) return _mm256_stream_pd(p, v);
#endif
    if constexpr (bytes == 16 && is_float) return _mm_stream_ps(p, v);
    if constexpr (bytes == 16 && is_double) return _mm_stream_pd(p, v);
#endif
    if constexpr (!has_streaming<T, Arch>) simd::store(p, v);
}

/// Makes this thread's streaming stores visible before its later stores: before the end of a unit of work.
MOX_INLINE void stream_fence() noexcept {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

/// Asks for the cache line of p for the first cache level; p need not be valid memory.
MOX_INLINE void prefetch_near(const void* p) noexcept {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(p, 0, 3);
#else
    (void)p;
#endif
}

/// The caches of a core, in bytes.
struct cache_sizes {
    index_t second = index_t{1} << 20, last = index_t{32} << 20;
    bool of_socket = false;  ///< the last one serves a whole socket: far from each core, and shared by many
};

/// As the CPU reports them; those of a usual one where it does not tell, or tells what cannot be.
inline const cache_sizes& caches() noexcept {
    static const cache_sizes sizes = [] {
        cache_sizes known;
#if MOX_HAS_CPUID
        // The same table at two places: AMD's, then Intel's. A CPU answers unknown leaves with those of
        // another, so both are asked for first.
        const bool amd = detail::ask(0x80000000U, 0).eax >= 0x8000001dU &&
                         detail::has(detail::ask(0x80000001U, 0).ecx, detail::bits({22}));
        index_t second = 0, last = 0;
        if (amd || detail::ask(0, 0).eax >= 4) {
            for (std::uint32_t i = 0; i < 8; ++i) {
                const detail::cpuid_answer a = detail::ask(amd ? 0x8000001dU : 4U, i);
                if ((a.eax & 31) == 0) break;  // no more caches
                const double ways = static_cast<double>((a.ebx >> 22) + 1),
                             parts = static_cast<double>((a.ebx >> 12 & 0x3ff) + 1),
                             line = static_cast<double>((a.ebx & 0xfff) + 1),
                             sets = static_cast<double>(a.ecx) + 1, size = ways * parts * line * sets;
                const std::uint32_t level = a.eax >> 5 & 7;
                if (level < 2 || size < 0x1p16 || size > 0x1p33) continue;
                if (level == 2) second = static_cast<index_t>(size);
                last = std::max(last, static_cast<index_t>(size));
            }
        }
        if (last > 0) known.last = last;
        if (second > 0) known.second = second;
        known.second = std::min(known.second, known.last);
        // AMD's last caches belong to a few cores, whatever their size.
        known.of_socket = !amd && known.last >= index_t{64} << 20;
#endif
        return known;
    }();
    return sizes;
}

/// What one core can count on of a last cache. Of one for a socket that is no more than of one for a few
/// cores (measured with 300 MB for a socket, rms_norm and a reader of its result, stores past the caches
/// against ordinary ones: 1.17 times the time at 16 MB, 0.85 at 32, 0.75 at 64 and 128).
constexpr index_t last_level_cache(const cache_sizes& sizes) noexcept {
    return sizes.of_socket ? index_t{32} << 20 : sizes.last;
}
inline index_t last_level_cache() noexcept { return last_level_cache(caches()); }

}  // namespace mox::inline MOX_ABI::simd
