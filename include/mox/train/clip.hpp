#pragma once

#include <cmath>

#include <mox/kernel/dot.hpp>
#include <mox/model/params.hpp>
#include <mox/model/trainable_mask.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

// Elements per partial sum and per unit of element-wise work: fixed, so that sums do not depend on threads.
inline constexpr index_t flat_block = 1 << 15;

// Sum of squares of n values.
template <class T>
double squares(const T* g, index_t size, executor_ref exec) {
    const index_t blocks = divide_up(size, flat_block);
    double total = 0;
    constexpr index_t at_once = 256;
    double partial[at_once];
    for (index_t first = 0; first < blocks; first += at_once) {
        const index_t n = std::min(at_once, blocks - first);
        exec.run(n, [&](index_t b) {
            const index_t begin = (first + b) * flat_block;
            const index_t end = std::min(size, begin + flat_block);
            // Short runs in T, added up in double: fast, and exact enough for millions of values.
            double sum = 0;
            for (index_t i = begin; i < end; i += 256) {
                sum += static_cast<double>(kernel::dot_row<T>(g + i, g + i, std::min<index_t>(256, end - i)));
            }
            partial[b] = sum;
        });
        for (index_t b = 0; b < n; ++b) total += partial[b];
    }
    return total;
}

template <class T>
void scale_values(T* g, index_t size, T scale, executor_ref exec) {
    parallel_ranges(exec, size, flat_block, [&](index_t begin, index_t end) {
        for (index_t i = begin; i < end; ++i) g[i] *= scale;
    });
}

inline bool exceeds(double norm, double limit) {
    check::that(limit > 0, "mox::clip_by_global_norm", "argument 'limit' must be positive");
    return std::isfinite(norm) && norm > limit;
}

}  // namespace detail

/// sqrt(sum of squares of all gradients).
template <class Net, class T>
double global_norm(const params<Net, T>& grads, executor_ref exec = {}) {
    const auto flat = grads.flat();
    return std::sqrt(detail::squares(flat.data(), ssize_of(flat), exec));
}

/// The same without the blocks that `mask` does not train.
template <class Net, class T>
double global_norm(const params<Net, T>& grads, const trainable_mask<Net, T>& mask, executor_ref exec = {}) {
    const T* g = grads.flat().data();
    double total = 0;
    mask.for_each_trained_run(
        [&](index_t begin, index_t end) { total += detail::squares(g + begin, end - begin, exec); });
    return std::sqrt(total);
}

/// Scales the gradients so that their global norm is at most `limit`; returns the norm before. Gradients that
/// are not finite are left as they are, and the norm returned says so.
template <class Net, class T>
double clip_by_global_norm(params<Net, T>& grads, double limit, executor_ref exec = {}) {
    const double norm = global_norm(grads, exec);
    if (detail::exceeds(norm, limit)) {
        detail::scale_values(grads.flat().data(), ssize_of(grads.flat()), static_cast<T>(limit / norm), exec);
    }
    return norm;
}

/// The same without the blocks that `mask` does not train, which are neither read nor written.
template <class Net, class T>
double clip_by_global_norm(params<Net, T>& grads, const trainable_mask<Net, T>& mask, double limit,
                           executor_ref exec = {}) {
    const double norm = global_norm(grads, mask, exec);
    if (detail::exceeds(norm, limit)) {
        T* g = grads.flat().data();
        mask.for_each_trained_run([&](index_t begin, index_t end) {
            detail::scale_values(g + begin, end - begin, static_cast<T>(limit / norm), exec);
        });
    }
    return norm;
}

}  // namespace mox::inline MOX_ABI
