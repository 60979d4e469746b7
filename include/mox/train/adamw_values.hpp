#pragma once

#include <mox/train/adamw.hpp>

namespace mox::inline MOX_ABI {

/// mox::adamw for a few numbers outside a network, such as the coefficients of a merge. The default decay
/// (0.1) pulls the numbers to zero, which are merge coefficients of one half: give your own.
template <class T>
class adamw_values {
public:
    explicit adamw_values(const adamw_options& options = {}) : options_(options) {
        detail::check_adamw("mox::adamw_values", options);
    }

    adamw_options& options() noexcept { return options_; }
    index_t steps() const noexcept { return steps_; }

    /// The first step decides how many numbers there are. Throws mox::error when later ones have others.
    void step(std::span<T> values, std::type_identity_t<std::span<const T>> gradient, double factor = 1) {
        constexpr std::string_view call = "mox::adamw_values::step";
        check::size(call, "gradient", "elements, like values", ssize_of(values), ssize_of(gradient));
        if (steps_ == 0) {
            m_.assign(values.size(), 0.0);
            v_.assign(values.size(), 0.0);
        }
        check::size(call, "values", "elements, as in the first step", ssize_of(std::span<const double>(m_)),
                    ssize_of(values));
        ++steps_;
        const auto n = static_cast<double>(steps_);
        const double rate = options_.rate * factor, b1 = options_.beta1, b2 = options_.beta2;
        const double c1 = 1 - std::pow(b1, n), c2 = 1 - std::pow(b2, n);
        for (std::size_t i = 0; i < values.size(); ++i) {
            const double g = static_cast<double>(gradient[i]);
            m_[i] = b1 * m_[i] + (1 - b1) * g;
            v_[i] = b2 * v_[i] + (1 - b2) * g * g;
            const double update = m_[i] / c1 / (std::sqrt(v_[i] / c2) + options_.epsilon);
            values[i] =
                static_cast<T>((1 - rate * options_.decay) * static_cast<double>(values[i]) - rate * update);
        }
    }

private:
    adamw_options options_;
    index_t steps_ = 0;
    std::vector<double> m_, v_;
};

}  // namespace mox::inline MOX_ABI
