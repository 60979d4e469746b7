#pragma once

// Several experts of one base become one network: merged = base + sum_k lambda_k (expert_k - base), with
// learned coefficients, one or several per tensor and expert (Expert Merging, arXiv 2509.25712).

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <mox/core/buffer.hpp>
#include <mox/core/error.hpp>
#include <mox/core/view.hpp>

namespace mox::inline MOX_ABI {

/// The coefficients of one tensor, wherever they lie: lambda = sigmoid(raw), one per expert and chunk of the
/// tensor. A tensor of n values in C chunks has chunks of ceil(n / C) values, the last ones shorter or empty.
/// Without chunks lambda stays at its start: there is nothing to train.
template <class T>
class merge_coefficients_view {
public:
    /// All started at `start`, between 0 and 1. raw: experts x chunks. Throws mox::error for another start,
    /// no expert, or another number of raw coefficients.
    merge_coefficients_view(index_t experts, index_t chunks, double start, std::span<const T> raw)
        : experts_(experts), chunks_(chunks), start_(start), raw_(raw) {
        check::that(experts > 0 && chunks >= 0, "mox::merge_coefficients",
                    "argument 'experts' must be positive and 'chunks' not negative");
        check::that(start > 0 && start < 1, "mox::merge_coefficients", "argument 'start' must lie in (0, 1)");
        check::size("mox::merge_coefficients", "raw", "elements, experts x chunks", experts * chunks,
                    ssize_of(raw));
    }

    index_t experts() const noexcept { return experts_; }
    index_t chunks() const noexcept { return chunks_; }
    /// lambda of an expert and chunk; without chunks, of chunk 0.
    T value(index_t expert, index_t chunk) const {
        check::that(expert >= 0 && expert < experts_, "mox::merge_coefficients::value",
                    "argument 'expert' must lie in [0, " + std::to_string(experts_) + ")");
        check::that(chunk >= 0 && chunk < std::max<index_t>(chunks_, 1), "mox::merge_coefficients::value",
                    "argument 'chunk' must lie in [0, " + std::to_string(std::max<index_t>(chunks_, 1)) +
                        ")");
        return lambda(expert, chunk);
    }

    /// merged = base + sum_k lambda_k task_k. tasks: experts x n, the differences expert - base.
    void merge(std::span<const T> base, std::span<const T> tasks, std::span<T> merged) const {
        check_sizes("mox::merge_coefficients::merge", "merged", base.size(), tasks.size(), merged.size());
        std::copy(base.begin(), base.end(), merged.begin());
        for_each(base.size(), [&](index_t k, index_t c, std::size_t begin, std::size_t end) {
            const T l = lambda(k, c);
            const T* const task = tasks.data() + static_cast<std::size_t>(k) * base.size();
            for (std::size_t i = begin; i < end; ++i) merged[i] += l * task[i];
        });
    }

    /// draw (+)= the gradient of the raw coefficients, given that of the merged tensor.
    void gradient(std::span<const T> dmerged, std::span<const T> tasks, std::span<T> draw,
                  bool accumulate = false) const {
        check_sizes("mox::merge_coefficients::gradient", "dmerged", dmerged.size(), tasks.size(),
                    dmerged.size());
        check::size("mox::merge_coefficients::gradient", "draw", "elements, experts x chunks", ssize_of(raw_),
                    ssize_of(draw));
        if (!accumulate) std::fill(draw.begin(), draw.end(), T(0));
        if (chunks_ == 0) return;
        for_each(dmerged.size(), [&](index_t k, index_t c, std::size_t begin, std::size_t end) {
            const T l = lambda(k, c);
            const T* const task = tasks.data() + static_cast<std::size_t>(k) * dmerged.size();
            double sum = 0;
            for (std::size_t i = begin; i < end; ++i)
                sum += static_cast<double>(dmerged[i]) * static_cast<double>(task[i]);
            draw[static_cast<std::size_t>(k * chunks_ + c)] += l * (T(1) - l) * static_cast<T>(sum);
        });
    }

    /// sum |lambda - start| / chunks: keeps the coefficients near their start. For several tensors together
    /// the sum is divided by the chunks of all of them: scale each by its share, chunks() / (sum of all
    /// chunks()), as mox::expert_merger does.
    T penalty() const {
        if (chunks_ == 0) return T(0);
        double sum = 0;
        for (index_t k = 0; k < experts_; ++k) {
            for (index_t c = 0; c < chunks_; ++c)
                sum += static_cast<double>(std::abs(lambda(k, c) - static_cast<T>(start_)));
        }
        return static_cast<T>(sum / static_cast<double>(chunks_));
    }
    /// draw += scale * its gradient; 0 where a raw coefficient is at its start, log(start / (1 - start)).
    void penalty_gradient(T scale, std::span<T> draw) const {
        check::size("mox::merge_coefficients::penalty_gradient", "draw", "elements, experts x chunks",
                    ssize_of(raw_), ssize_of(draw));
        const T first = raw_of(start_);
        for (index_t k = 0; k < experts_; ++k) {
            for (index_t c = 0; c < chunks_; ++c) {
                const T l = lambda(k, c), raw = raw_[static_cast<std::size_t>(k * chunks_ + c)];
                const T sign = raw > first ? T(1) : raw < first ? T(-1) : T(0);
                draw[static_cast<std::size_t>(k * chunks_ + c)] +=
                    scale * sign * l * (T(1) - l) / static_cast<T>(chunks_);
            }
        }
    }

    /// The raw coefficient of lambda = start.
    static T raw_of(double start) noexcept { return static_cast<T>(std::log(start / (1 - start))); }

private:
    T lambda(index_t expert, index_t chunk) const {
        if (chunks_ == 0) return static_cast<T>(start_);
        const T r = raw_[static_cast<std::size_t>(expert * chunks_ + chunk)];
        return T(1) / (T(1) + std::exp(-r));
    }
    void check_sizes(std::string_view call, std::string_view argument, std::size_t n, std::size_t tasks,
                     std::size_t to) const {
        check::size(call, "tasks", "elements, experts x the tensor", experts_ * static_cast<index_t>(n),
                    static_cast<index_t>(tasks));
        check::size(call, argument, "elements, like the tensor", static_cast<index_t>(n),
                    static_cast<index_t>(to));
    }

    // body(expert, chunk, its first element, its last)
    template <class Body>
    void for_each(std::size_t n, Body&& body) const {
        if (n == 0) return;
        const auto step =
            static_cast<std::size_t>(divide_up(static_cast<index_t>(n), std::max<index_t>(chunks_, 1)));
        for (index_t k = 0; k < experts_; ++k) {
            index_t chunk = 0;
            for (std::size_t i = 0; i < n; i += step) body(k, chunk++, i, std::min(n, i + step));
        }
    }

    index_t experts_, chunks_;
    double start_;
    std::span<const T> raw_;
};

/// The coefficients of one tensor, with their numbers. mox::expert_merger has those of a network.
template <class T>
class merge_coefficients {
public:
    /// All at `start`, between 0 and 1. Throws as merge_coefficients_view.
    merge_coefficients(index_t experts, index_t chunks, double start)
        : experts_(experts), chunks_(chunks), start_(start) {
        raw_.assign(static_cast<std::size_t>(std::max<index_t>(experts * chunks, 0)),
                    merge_coefficients_view<T>::raw_of(start));
        (void)view();  // checks
    }

    index_t experts() const noexcept { return experts_; }
    index_t chunks() const noexcept { return chunks_; }
    /// What is trained, experts x chunks.
    std::span<T> raw() noexcept { return raw_; }
    std::span<const T> raw() const noexcept { return raw_; }
    merge_coefficients_view<T> view() const { return {experts_, chunks_, start_, raw_}; }

    // As in the view.
    T value(index_t expert, index_t chunk) const { return view().value(expert, chunk); }
    void merge(std::span<const T> base, std::span<const T> tasks, std::span<T> merged) const {
        view().merge(base, tasks, merged);
    }
    void gradient(std::span<const T> dmerged, std::span<const T> tasks, std::span<T> draw,
                  bool accumulate = false) const {
        view().gradient(dmerged, tasks, draw, accumulate);
    }
    T penalty() const { return view().penalty(); }
    void penalty_gradient(T scale, std::span<T> draw) const { view().penalty_gradient(scale, draw); }

private:
    index_t experts_, chunks_;
    double start_;
    std::vector<T> raw_;
};

}  // namespace mox::inline MOX_ABI
