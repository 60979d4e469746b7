#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include <mox/train/adamw.hpp>
#include <mox/train/leading_directions.hpp>

namespace mox::inline MOX_ABI {

/// OwLore's values.
struct galore_options {
    index_t rank = 256;      ///< at most the smaller side of the matrix is used
    index_t interval = 100;  ///< steps between two looks for new directions
    double scale = 1.0;      ///< of the update that comes back
};

/// Gradients of low rank (GaLore, arXiv 2403.03507; OwLore, arXiv 2405.18380, trains the blocks it draws this
/// way): the projection of one matrix's gradient, rows x cols, row-major as params::read gives it. The
/// shorter side is projected: low = P' G (rank x cols), or G P (rows x rank) where there are more rows than
/// columns. P holds the first singular vectors of the gradient seen at the last refresh; they change with it,
/// moments kept in the low space do not, as in the paper.
template <class T>
class galore {
public:
    galore(index_t rows, index_t cols, const galore_options& options)
        : rows_(rows), cols_(cols), left_(rows <= cols), options_(options) {
        check::that(rows > 0 && cols > 0, "mox::galore",
                    "arguments 'rows' and 'cols' must be positive, got " + std::to_string(rows) + " and " +
                        std::to_string(cols));
        check::that(options.rank > 0, "mox::galore",
                    "option 'rank' must be positive, got " + std::to_string(options.rank));
        check::that(options.interval > 0, "mox::galore",
                    "option 'interval' must be at least one step, got " + std::to_string(options.interval));
        check::that(std::isfinite(options.scale) && options.scale > 0, "mox::galore",
                    "option 'scale' must be a positive number");
        options_.rank = std::min(options.rank, std::min(rows, cols));
    }

    index_t rank() const noexcept { return options_.rank; }
    index_t low_rows() const noexcept { return left_ ? rank() : rows_; }
    index_t low_cols() const noexcept { return left_ ? cols_ : rank(); }
    index_t low_size() const noexcept { return low_rows() * low_cols(); }

    /// One step: looks for new directions when it is time, then low = the projection of `gradient`. Throws
    /// mox::error when the gradient of a refresh is not finite; P is then unchanged.
    void project(std::span<const T> gradient, std::span<T> low) {
        check::size("mox::galore::project", "gradient", "elements", rows_ * cols_, ssize_of(gradient));
        check::size("mox::galore::project", "low", "elements", low_size(), ssize_of(low));
        if (step_ % options_.interval == 0) refresh(gradient);
        ++step_;
        std::fill(low.begin(), low.end(), T(0));
        for (index_t i = 0; i < rows_; ++i) {
            const T* g = gradient.data() + i * cols_;
            for (index_t r = 0; r < rank(); ++r) {
                const T* p = direction(r);
                if (left_) {
                    T* to = low.data() + r * cols_;
                    for (index_t j = 0; j < cols_; ++j) to[j] += p[i] * g[j];
                } else {
                    T sum = 0;
                    for (index_t j = 0; j < cols_; ++j) sum += g[j] * p[j];
                    low[static_cast<std::size_t>(i * rank() + r)] = sum;
                }
            }
        }
    }

    /// update = scale times `low` in the full space; zeros before the first project.
    void expand(std::span<const T> low, std::span<T> update) const {
        check::size("mox::galore::expand", "low", "elements", low_size(), ssize_of(low));
        check::size("mox::galore::expand", "update", "elements", rows_ * cols_, ssize_of(update));
        const T s = static_cast<T>(options_.scale);
        std::fill(update.begin(), update.end(), T(0));
        if (basis_.empty()) return;
        for (index_t i = 0; i < rows_; ++i) {
            T* to = update.data() + i * cols_;
            for (index_t r = 0; r < rank(); ++r) {
                const T factor =
                    s * (left_ ? direction(r)[i] : low[static_cast<std::size_t>(i * rank() + r)]);
                const T* from = left_ ? low.data() + r * cols_ : direction(r);
                for (index_t j = 0; j < cols_; ++j) to[j] += factor * from[j];
            }
        }
    }

private:
    const T* direction(index_t r) const { return basis_.data() + r * (left_ ? rows_ : cols_); }

    void refresh(std::span<const T> gradient) {
        // Double, as small singular values of float gradients are noise otherwise.
        std::vector<double> wide(gradient.size());
        bool finite = true;
        for (index_t i = 0; i < rows_; ++i) {
            for (index_t j = 0; j < cols_; ++j) {
                const double v = static_cast<double>(gradient[static_cast<std::size_t>(i * cols_ + j)]);
                finite = finite && std::isfinite(v);
                wide[static_cast<std::size_t>(left_ ? i * cols_ + j : j * rows_ + i)] = v;
            }
        }
        check::that(finite, "mox::galore::project",
                    "argument 'gradient' must hold finite numbers where new directions are looked for");
        const auto p = leading_directions(wide, left_ ? rows_ : cols_, left_ ? cols_ : rows_, rank());
        basis_.assign(p.size(), T(0));
        for (std::size_t i = 0; i < p.size(); ++i) basis_[i] = static_cast<T>(p[i]);
    }

    index_t rows_, cols_;
    bool left_;
    galore_options options_;
    std::vector<T> basis_;  // rank x shorter side
    index_t step_ = 0;
};

/// AdamW of one matrix with its moments in the low space: w -= rate * (scale P (m / (sqrt(v) + epsilon)) +
/// decay w). Their memory is rank / min(rows, cols) of AdamW's.
template <class T>
class galore_adamw {
public:
    galore_adamw(index_t rows, index_t cols, const galore_options& projection = {},
                 const adamw_options& options = {})
        : projection_(rows, cols, projection), options_(options), m_(low_size(), T(0)), v_(low_size(), T(0)),
          low_(low_size()), update_(static_cast<std::size_t>(rows * cols)) {
        check::that(options.rate >= 0 && options.epsilon > 0, "mox::galore_adamw",
                    "option 'rate' must not be negative and 'epsilon' must be positive");
        check::that(options.beta1 >= 0 && options.beta1 < 1 && options.beta2 >= 0 && options.beta2 < 1,
                    "mox::galore_adamw", "options 'beta1' and 'beta2' must lie in [0, 1)");
    }

    /// `factor` scales the rate of this step (a schedule's value). Blocks that are not drawn are not called.
    void step(std::span<T> weights, std::span<const T> gradient, double factor = 1.0) {
        check::size("mox::galore_adamw::step", "weights", "elements", static_cast<index_t>(update_.size()),
                    ssize_of(weights));
        projection_.project(gradient, low_);
        ++steps_;
        const T b1 = static_cast<T>(options_.beta1), b2 = static_cast<T>(options_.beta2);
        const T c1 = static_cast<T>(1.0 - std::pow(options_.beta1, static_cast<double>(steps_)));
        const T c2 = static_cast<T>(1.0 - std::pow(options_.beta2, static_cast<double>(steps_)));
        const T epsilon = static_cast<T>(options_.epsilon);
        for (std::size_t i = 0; i < low_.size(); ++i) {
            const T g = low_[i];
            m_[i] = b1 * m_[i] + (T(1) - b1) * g;
            v_[i] = b2 * v_[i] + (T(1) - b2) * g * g;
            low_[i] = (m_[i] / c1) / (std::sqrt(v_[i] / c2) + epsilon);
        }
        projection_.expand(low_, update_);
        const T rate = static_cast<T>(options_.rate * factor), decay = static_cast<T>(options_.decay);
        for (std::size_t i = 0; i < weights.size(); ++i)
            weights[i] -= rate * (update_[i] + decay * weights[i]);
    }

    index_t steps() const noexcept { return steps_; }
    /// Bytes of the moments.
    std::size_t bytes() const noexcept { return (m_.size() + v_.size()) * sizeof(T); }

private:
    std::size_t low_size() const { return static_cast<std::size_t>(projection_.low_size()); }

    galore<T> projection_;
    adamw_options options_;
    std::vector<T> m_, v_, low_, update_;
    index_t steps_ = 0;
};

}  // namespace mox::inline MOX_ABI
