#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include <mox/kernel/row_major.hpp>
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

    /// Whether the next step looks for new directions.
    bool looks() const noexcept { return step_ % options_.interval == 0; }

    /// Looks for new directions when it is time for it; `project` does so unless this came before. Throws
    /// mox::error when the gradient is then not finite; P is unchanged. `search` lends its memory.
    void look(std::span<const T> gradient, direction_search& search) {
        check::size("mox::galore::look", "gradient", "elements", rows_ * cols_, ssize_of(gradient));
        if (!looks()) return;
        refresh(gradient, search);
        fresh_ = true;
    }

    /// One step: looks for new directions when it is time, then low = the projection of `gradient`. Throws
    /// mox::error when the gradient of a refresh is not finite; P is then unchanged.
    void project(std::span<const T> gradient, std::span<T> low, executor_ref exec = {}) {
        check::size("mox::galore::project", "gradient", "elements", rows_ * cols_, ssize_of(gradient));
        check::size("mox::galore::project", "low", "elements", low_size(), ssize_of(low));
        direction_search search;
        if (!fresh_) look(gradient, search);
        fresh_ = false;
        ++step_;
        const matrix_view<const T> g(gradient.data(), rows_, cols_);
        if (left_) {
            product(exec, basis(), g, low, T(1));
        } else {
            product(exec, g, turned(), low, T(1));
        }
    }

    /// update = scale times `low` in the full space; zeros before the first project.
    void expand(std::span<const T> low, std::span<T> update, executor_ref exec = {}) const {
        check::size("mox::galore::expand", "low", "elements", low_size(), ssize_of(low));
        check::size("mox::galore::expand", "update", "elements", rows_ * cols_, ssize_of(update));
        if (basis_.empty()) {
            std::fill(update.begin(), update.end(), T(0));
            return;
        }
        const matrix_view<const T> l(low.data(), low_rows(), low_cols());
        const T s = static_cast<T>(options_.scale);
        if (left_) {
            product(exec, turned(), l, update, s);
        } else {
            product(exec, l, basis(), update, s);
        }
    }

    /// Bytes of P, which is kept in both orders.
    std::size_t bytes() const noexcept {
        return 2 * static_cast<std::size_t>(rank() * std::min(rows_, cols_)) * sizeof(T);
    }

private:
    // P' as rank x shorter side, and P.
    matrix_view<const T> basis() const { return {basis_.data(), rank(), std::min(rows_, cols_)}; }
    matrix_view<const T> turned() const { return {turned_.data(), std::min(rows_, cols_), rank()}; }

    // to = factor x w, all dense and row-major.
    static void product(executor_ref exec, matrix_view<const T> x, matrix_view<const T> w, std::span<T> to,
                        T factor) {
        const matrix_view<T> out(to.data(), x.rows, w.cols);
        // Rows are split over threads: eight tiles read the same rows of w.
        parallel_ranges(exec, x.rows, 8 * kernel::product_rows, [&](index_t begin, index_t end) {
            kernel::product_row_major<T>(kernel::row_source<const T>(x), begin, end, w,
                                         {kernel::row_source<T>(out), out.cols, nullptr, false}, x.rows);
            if (factor == T(1)) return;
            for (index_t i = begin * out.cols; i < end * out.cols; ++i) out.data[i] *= factor;
        });
    }

    void refresh(std::span<const T> gradient, direction_search& search) {
        // Double, as small singular values of float gradients are noise otherwise.
        const std::span<double> wide = search.matrix(left_ ? rows_ : cols_, left_ ? cols_ : rows_);
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
        const std::span<const double> p = search.find(rank());
        basis_.assign(p.size(), T(0));
        turned_.assign(p.size(), T(0));
        const auto side = static_cast<std::size_t>(std::min(rows_, cols_)),
                   ranks = static_cast<std::size_t>(rank());
        for (std::size_t i = 0; i < p.size(); ++i) {
            basis_[i] = static_cast<T>(p[i]);
            turned_[i % side * ranks + i / side] = basis_[i];
        }
    }

    index_t rows_, cols_;
    bool left_;
    galore_options options_;
    std::vector<T> basis_, turned_;  // rank x shorter side, and the other way round
    index_t step_ = 0;
    bool fresh_ = false;  // the directions of this step are there
};

namespace detail {

/// What AdamW keeps of one matrix in the low space. Their memory is rank / min(rows, cols) of AdamW's.
template <class T>
class low_moments {
public:
    low_moments(index_t rows, index_t cols, const galore_options& options)
        : projection_(rows, cols, options), m_(size(), T(0)), v_(size(), T(0)) {}

    galore<T>& projection() noexcept { return projection_; }
    const galore<T>& projection() const noexcept { return projection_; }
    index_t steps() const noexcept { return steps_; }
    std::size_t bytes() const noexcept { return (m_.size() + v_.size()) * sizeof(T); }

    /// update = scale P (m / (sqrt(v) + epsilon)) after the moments have seen `gradient`; `low` is scratch of
    /// projection().low_size() values.
    void step(std::span<const T> gradient, const adamw_options& options, std::span<T> low,
              std::span<T> update, executor_ref exec) {
        projection_.project(gradient, low, exec);
        ++steps_;
        const T b1 = static_cast<T>(options.beta1), b2 = static_cast<T>(options.beta2);
        const T c1 = static_cast<T>(1.0 - std::pow(options.beta1, static_cast<double>(steps_)));
        const T c2 = static_cast<T>(1.0 - std::pow(options.beta2, static_cast<double>(steps_)));
        const T epsilon = static_cast<T>(options.epsilon);
        parallel_ranges(exec, ssize_of(low), flat_block, [&](index_t begin, index_t end) {
            for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
                const T g = low[i];
                m_[i] = b1 * m_[i] + (T(1) - b1) * g;
                v_[i] = b2 * v_[i] + (T(1) - b2) * g * g;
                low[i] = (m_[i] / c1) / (std::sqrt(v_[i] / c2) + epsilon);
            }
        });
        projection_.expand(low, update, exec);
    }

private:
    std::size_t size() const { return static_cast<std::size_t>(projection_.low_size()); }

    galore<T> projection_;
    std::vector<T> m_, v_;
    index_t steps_ = 0;
};

}  // namespace detail

/// AdamW of one matrix with its moments in the low space: w -= rate * (scale P (m / (sqrt(v) + epsilon)) +
/// decay w). A whole network: mox::projected_adamw.
template <class T>
class galore_adamw {
public:
    galore_adamw(index_t rows, index_t cols, const galore_options& projection = {},
                 const adamw_options& options = {})
        : moments_(rows, cols, projection), options_(options),
          low_(static_cast<std::size_t>(moments_.projection().low_size())),
          update_(static_cast<std::size_t>(rows * cols)) {
        detail::check_adamw("mox::galore_adamw", options);
    }

    /// `factor` scales the rate of this step (a schedule's value). Blocks that are not drawn are not called.
    void step(std::span<T> weights, std::span<const T> gradient, double factor = 1.0) {
        check::size("mox::galore_adamw::step", "weights", "elements", static_cast<index_t>(update_.size()),
                    ssize_of(weights));
        moments_.step(gradient, options_, low_, update_, {});
        const T rate = static_cast<T>(options_.rate * factor), decay = static_cast<T>(options_.decay);
        for (std::size_t i = 0; i < weights.size(); ++i)
            weights[i] -= rate * (update_[i] + decay * weights[i]);
    }

    index_t steps() const noexcept { return moments_.steps(); }
    /// Bytes of the moments.
    std::size_t bytes() const noexcept { return moments_.bytes(); }

private:
    detail::low_moments<T> moments_;
    adamw_options options_;
    std::vector<T> low_, update_;
};

}  // namespace mox::inline MOX_ABI
