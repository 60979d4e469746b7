#pragma once

// A peer that computes something else would flatter mox or itself.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>

namespace bench {

/// Sums of a thousand products in another order. A token whose choice hangs on that order would show.
inline constexpr double float_bound = 1e-5;

/// Ends the program when a peer's result is further from mox's than `bound`, relative, in the Euclidean norm.
inline void must_agree(const std::string& peer, const char* what, std::span<const float> found,
                       std::span<const float> wanted, double bound) {
    double difference = 0, norm = 0;
    for (std::size_t i = 0; i < wanted.size() && i < found.size(); ++i) {
        const double w = static_cast<double>(wanted[i]), d = static_cast<double>(found[i]) - w;
        difference += d * d;
        norm += w * w;
    }
    const double error = std::sqrt(difference / norm);
    if (found.size() == wanted.size() && error <= bound) return;
    std::fprintf(stderr, "mox_bench: %s differs from mox in %s: relative error %.2g, allowed %.2g\n",
                 peer.c_str(), what, error, bound);
    std::exit(3);
}

}  // namespace bench
