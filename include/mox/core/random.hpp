#pragma once

// Counter-based random numbers: number i of a stream is a pure function of (seed, stream, i), so that
// results do not depend on threads, on order, or on how many numbers others have drawn.
// Philox 4x32-10: "Parallel Random Numbers: As Easy as 1, 2, 3" (Salmon et al., SC 2011).

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

#include <mox/core/config.hpp>

namespace mox::inline MOX_ABI {

/// A stream of random numbers with random access.
class random_stream {
public:
    constexpr random_stream(std::uint64_t seed, std::uint64_t stream) noexcept
        : seed_(seed), stream_(stream) {}

    /// Four independent 32-bit numbers of block `counter`.
    constexpr std::array<std::uint32_t, 4> block(std::uint64_t counter) const noexcept {
        std::array<std::uint32_t, 4> c{
            static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32),
            static_cast<std::uint32_t>(stream_), static_cast<std::uint32_t>(stream_ >> 32)};
        std::uint32_t k0 = static_cast<std::uint32_t>(seed_);
        std::uint32_t k1 = static_cast<std::uint32_t>(seed_ >> 32);
        for (int round = 0; round < 10; ++round) {
            const std::uint64_t a = std::uint64_t{0xD2511F53u} * c[0];
            const std::uint64_t b = std::uint64_t{0xCD9E8D57u} * c[2];
            c = {static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(b),
                 static_cast<std::uint32_t>(a >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(a)};
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        return c;
    }

    /// Uniform integer below 2^32, number i.
    constexpr std::uint32_t bits(std::uint64_t i) const noexcept { return block(i / 4)[i % 4]; }

    /// Uniform in [0, 1), number i.
    constexpr double uniform(std::uint64_t i) const noexcept {
        const auto b = block(i);
        const std::uint64_t mantissa = (std::uint64_t{b[0]} << 21) ^ (b[1] >> 11);
        return static_cast<double>(mantissa) * 0x1p-53;
    }

    /// Standard normal, number i (Box and Muller).
    double normal(std::uint64_t i) const noexcept {
        const auto b = block(i);
        const double u = (static_cast<double>(b[0]) + 0.5) * 0x1p-32;
        const double v = static_cast<double>(b[1]) * 0x1p-32;
        return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
    }

private:
    std::uint64_t seed_;
    std::uint64_t stream_;
};

}  // namespace mox::inline MOX_ABI
