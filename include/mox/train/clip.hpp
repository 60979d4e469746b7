#pragma once

#include <cmath>

#include <mox/kernel/dot.hpp>
#include <mox/model/params.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

// Elements per partial sum and per unit of element-wise work: fixed, so that sums do not depend on threads.
inline constexpr index_t flat_block = 1 << 15;

}  // namespace detail

/// sqrt(sum of squares of all gradients).
template <class Net, class T>
double global_norm(const params<Net, T>& grads, executor_ref exec = {}) {
    const auto flat = grads.flat();
    const T* g = flat.data();
    const index_t size = ssize_of(flat);
    const index_t blocks = divide_up(size, detail::flat_block);
    double total = 0;
    constexpr index_t at_once = 256;
    double partial[at_once];
    for (index_t first = 0; first < blocks; first += at_once) {
        const index_t n = std::min(at_once, blocks - first);
        exec.run(n, [&](index_t b) {
            const index_t begin = (first + b) * detail::flat_block;
            const index_t end = std::min(size, begin + detail::flat_block);
            // Short runs in T, added up in double: fast, and exact enough for millions of values.
            double sum = 0;
            for (index_t i = begin; i < end; i += 256) {
                sum += static_cast<double>(kernel::dot_row<T>(g + i, g + i, std::min<index_t>(256, end - i)));
            }
            partial[b] = sum;
        });
        for (index_t b = 0; b < n; ++b) total += partial[b];
    }
    return std::sqrt(total);
}

/// Scales the gradients so that their global norm is at most `limit`; returns the norm before. Gradients that
/// are not finite are left as they are, and the norm returned says so.
template <class Net, class T>
double clip_by_global_norm(params<Net, T>& grads, double limit, executor_ref exec = {}) {
    check::that(limit > 0, "mox::clip_by_global_norm", "argument 'limit' must be positive");
    const double norm = global_norm(grads, exec);
    if (std::isfinite(norm) && norm > limit) {
        const T scale = static_cast<T>(limit / norm);
        T* g = grads.flat().data();
        parallel_ranges(exec, ssize_of(grads.flat()), detail::flat_block, [&](index_t begin, index_t end) {
            for (index_t i = begin; i < end; ++i) g[i] *= scale;
        });
    }
    return norm;
}

}  // namespace mox::inline MOX_ABI
