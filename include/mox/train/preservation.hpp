#pragma once

#include <span>
#include <string_view>
#include <type_traits>

#include <mox/core/error.hpp>
#include <mox/core/view.hpp>

namespace mox::inline MOX_ABI {

/// beta sum (theta - theta_0)^2: keeps trained experts near what they were (LoRA-Mixer, arXiv 2507.00029, for
/// the experts it names). Adds 2 beta (theta - theta_0) to `dnow` unless that is empty. For a whole network:
/// params::flat() of the weights, of a copy from before, and of the gradients. Throws mox::error when the
/// sizes differ.
template <class T>
T preservation_loss(std::span<const T> now, std::type_identity_t<std::span<const T>> start, double beta,
                    std::type_identity_t<std::span<T>> dnow = {}) {
    constexpr std::string_view call = "mox::preservation_loss";
    check::size(call, "start", "elements, like now", ssize_of(now), ssize_of(start));
    if (!dnow.empty()) check::size(call, "dnow", "elements, like now", ssize_of(now), ssize_of(dnow));
    double sum = 0;
    for (std::size_t i = 0; i < now.size(); ++i) {
        const double d = static_cast<double>(now[i]) - static_cast<double>(start[i]);
        sum += d * d;
        if (!dnow.empty()) dnow[i] += static_cast<T>(2 * beta * d);
    }
    return static_cast<T>(beta * sum);
}

/// The mean over all values of (y - target)^2, as for hidden states of a teacher (Expert Merging, arXiv
/// 2509.25712). dy, when not empty, gets 2 (y - target) / values. Throws mox::error when the shapes differ.
template <class T>
T mean_squared_error(matrix_view<const T> y, std::type_identity_t<matrix_view<const T>> target,
                     std::type_identity_t<matrix_view<T>> dy = {}) {
    constexpr std::string_view call = "mox::mean_squared_error";
    check::size(call, "target", "rows, like y", y.rows, target.rows);
    check::size(call, "target", "columns, like y", y.cols, target.cols);
    if (dy.data) {
        check::size(call, "dy", "rows, like y", y.rows, dy.rows);
        check::size(call, "dy", "columns, like y", y.cols, dy.cols);
    }
    const double count = static_cast<double>(y.rows * y.cols);
    if (count == 0) return T(0);
    double sum = 0;
    for (index_t t = 0; t < y.rows; ++t) {
        for (index_t j = 0; j < y.cols; ++j) {
            const double d = static_cast<double>(y(t, j)) - static_cast<double>(target(t, j));
            sum += d * d;
            if (dy.data) dy(t, j) = static_cast<T>(2 * d / count);
        }
    }
    return static_cast<T>(sum / count);
}

}  // namespace mox::inline MOX_ABI
