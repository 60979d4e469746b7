#pragma once

// What a layer says about its numbers, and where they lie in the one flat buffer of a network.
//
// A layer lists its own tensors in `static constexpr std::array parameters`; a layer made of layers names
// them in `using children = leaves<...>` (and how often they follow each other in `repetitions`). Own tensors
// come first, then the children in order. All offsets are known at compile time.

#include <array>
#include <string>

#include <mox/core/leaves.hpp>
#include <mox/core/parameter.hpp>
#include <mox/kernel/panels.hpp>

namespace mox::inline MOX_ABI {

/// Elements of one matrix of the stack, and of the whole tensor, in memory.
template <class T>
constexpr index_t matrix_elements(const parameter& p) noexcept {
    using layout = kernel::panel_layout<T>;
    switch (p.form) {
    case storage::vector:
        return p.cols;
    case storage::rows:
        return p.rows * p.cols;
    case storage::panels:
        return p.rows * layout::padded(p.cols);
    case storage::gated_panels:
        return p.rows * layout::padded_gated(p.cols);
    }
    return 0;
}

template <class T>
constexpr index_t tensor_elements(const parameter& p) noexcept {
    return round_up(p.count * matrix_elements<T>(p), static_cast<index_t>(alignment / sizeof(T)));
}

/// Offset inside the tensor of matrix m, input row k, logical column n.
template <class T>
constexpr index_t element_offset(const parameter& p, index_t m, index_t k, index_t n) noexcept {
    using layout = kernel::panel_layout<T>;
    const index_t base = m * matrix_elements<T>(p);
    switch (p.form) {
    case storage::vector:
        return base + n;
    case storage::rows:
        return base + k * p.cols + n;
    case storage::panels:
        return base + layout::offset(p.rows, layout::padded(p.cols), k, n);
    case storage::gated_panels: {
        const index_t part = n < p.cols ? 0 : 1;
        const index_t col = layout::gated_column(p.cols, n - part * p.cols, part);
        return base + layout::offset(p.rows, layout::padded_gated(p.cols), k, col);
    }
    }
    return base;
}

template <class L>
constexpr index_t repetitions() noexcept {
    if constexpr (requires { L::repetitions; }) {
        return L::repetitions;
    } else {
        return 1;
    }
}

namespace detail {

template <class L>
struct children_list {
    using type = leaves<>;
};
template <class L>
requires requires { typename L::children; }
struct children_list<L> {
    using type = typename L::children;
};

template <class L>
constexpr std::size_t own_count() noexcept {
    if constexpr (requires { L::parameters; }) {
        return L::parameters.size();
    } else {
        return 0;
    }
}

}  // namespace detail

template <class L>
using children_of = typename detail::children_list<L>::type;

template <class L, class T>
constexpr index_t parameter_elements() noexcept;

namespace detail {

// Offsets of own tensors and, behind them, of the children of one repetition; the last entry is the end.
template <class L, class T>
struct layout_of {
    static constexpr std::size_t own = own_count<L>();
    static constexpr std::size_t kids = children_of<L>::size;

    static constexpr auto own_offsets = [] {
        std::array<index_t, own + 1> offsets{};
        if constexpr (own > 0) {
            for (std::size_t i = 0; i < own; ++i)
                offsets[i + 1] = offsets[i] + tensor_elements<T>(L::parameters[i]);
        }
        return offsets;
    }();

    static constexpr auto child_offsets = [] {
        std::array<index_t, kids + 1> offsets{};
        for_each_index<kids>([&](auto i) {
            offsets[i + 1] = offsets[i] + parameter_elements<typename children_of<L>::template at<i>, T>();
        });
        return offsets;
    }();
};

}  // namespace detail

/// Elements of the flat buffer that layer L takes, children included.
template <class L, class T>
constexpr index_t parameter_elements() noexcept {
    using layout = detail::layout_of<L, T>;
    return layout::own_offsets.back() + repetitions<L>() * layout::child_offsets.back();
}

/// The parameters (or gradients) of layer L inside the flat buffer.
template <class L, class T>
struct param_ref {
    using scalar = std::remove_const_t<T>;
    using layout = detail::layout_of<L, scalar>;

    T* base = nullptr;

    constexpr param_ref() = default;
    constexpr explicit param_ref(T* b) noexcept : base(b) {}

    /// Own tensor i, in the order of L::parameters.
    constexpr T* operator[](index_t i) const noexcept {
        return base + layout::own_offsets[static_cast<std::size_t>(i)];
    }
    constexpr tensor_list<T> tensors() const noexcept { return {base, layout::own_offsets.data()}; }

    /// Own tensor i as a weight matrix; m picks one of a stack.
    template <std::size_t I>
    constexpr kernel::panel_view<T> panels(index_t m = 0) const noexcept {
        constexpr parameter p = L::parameters[I];
        using columns = kernel::panel_layout<scalar>;
        constexpr index_t cols =
            p.form == storage::gated_panels ? columns::padded_gated(p.cols) : columns::padded(p.cols);
        return {(*this)[static_cast<index_t>(I)] + m * matrix_elements<scalar>(p), p.rows, cols};
    }

    template <std::size_t I>
    constexpr auto child(index_t repetition = 0) const noexcept {
        return param_ref<typename children_of<L>::template at<I>, T>(
            base + layout::own_offsets.back() + repetition * layout::child_offsets.back() +
            layout::child_offsets[I]);
    }
};

/// Calls visit(parameter, offset in the flat buffer, path, ordinal) for every tensor of L, in memory order.
/// The path reads like "2.experts.gate_up"; the ordinal counts tensors and is the same for every scalar type.
template <class L, class T, class Visit>
void for_each_parameter(Visit&& visit, const std::string& path, index_t& offset, index_t& ordinal) {
    if constexpr (requires { L::parameters; }) {
        for (const parameter& p : L::parameters) {
            visit(p, offset, path.empty() ? std::string(p.name) : path + "." + std::string(p.name), ordinal);
            offset += tensor_elements<T>(p);
            ++ordinal;
        }
    }
    for (index_t r = 0; r < repetitions<L>(); ++r) {
        for_each_index<children_of<L>::size>([&](auto i) {
            using child = typename children_of<L>::template at<i>;
            const index_t number = r * static_cast<index_t>(children_of<L>::size) + static_cast<index_t>(i);
            for_each_parameter<child, T>(visit, (path.empty() ? "" : path + ".") + std::to_string(number),
                                         offset, ordinal);
        });
    }
}

template <class L, class T, class Visit>
void for_each_parameter(Visit&& visit) {
    index_t offset = 0, ordinal = 0;
    for_each_parameter<L, T>(visit, std::string(), offset, ordinal);
}

}  // namespace mox::inline MOX_ABI
