#pragma once

// What a layer says about its numbers, and where they lie in the one flat buffer of a network.
//
// A layer lists its own tensors in `static constexpr std::array parameters`; a layer made of layers names
// them in `using children = leaves<...>` (and how often they follow each other in `repetitions`, and what
// they are called in `child_names`). Own tensors come first, then the children in order. What is not trained
// (a tensor that says so, a layer under mox::frozen) lies in a second buffer, so that gradients and moments
// have no room for it. All offsets are known at compile time.

#include <array>
#include <string>

#include <mox/core/leaves.hpp>
#include <mox/core/parameter.hpp>
#include <mox/kernel/panels.hpp>
#include <mox/kernel/sparse_index.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

// Elements of sparse panels before their index.
template <class T>
constexpr index_t index_offset(const parameter& p) noexcept {
    return round_up(p.rows * kernel::panel_layout<T>::padded(p.cols),
                    static_cast<index_t>(alignment / sizeof(T)));
}

}  // namespace detail

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
    case storage::sparse_panels:
        return detail::index_offset<T>(p) +
               round_up(kernel::sparse_rows<T>::bytes(p.rows, p.cols), static_cast<index_t>(alignment)) /
                   static_cast<index_t>(sizeof(T));
    case storage::gated_panels:
        return p.rows * layout::padded_gated(p.cols);
    case storage::packed:
    case storage::gated_packed:
        return p.packing->bytes(p.rows, p.cols, p.gated()) / static_cast<index_t>(sizeof(T));
    }
    return 0;
}

template <class T>
constexpr index_t tensor_elements(const parameter& p) noexcept {
    return round_up(p.count * matrix_elements<T>(p), static_cast<index_t>(alignment / sizeof(T)));
}

/// Offset inside the tensor of matrix m, input row k, logical column n. Packed matrices have no elements of
/// their own in memory: for them this is where matrix m begins.
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
    case storage::sparse_panels:
        return base + layout::offset(p.rows, layout::padded(p.cols), k, n);
    case storage::gated_panels: {
        const index_t part = n < p.cols ? 0 : 1;
        const index_t col = layout::gated_column(p.cols, n - part * p.cols, part);
        return base + layout::offset(p.rows, layout::padded_gated(p.cols), k, col);
    }
    case storage::packed:
    case storage::gated_packed:
        return base;
    }
    return base;
}

/// Finds anew what memory holds beside the values of a tensor, after they changed.
template <class T>
void index_values(const parameter& p, T* tensor) {
    if (p.form != storage::sparse_panels) return;
    for (index_t m = 0; m < p.count; ++m, tensor += matrix_elements<T>(p)) {
        const kernel::panel_view<const T> w(tensor, p.rows, kernel::panel_layout<T>::padded(p.cols));
        kernel::index_sparse_rows<T>(w, p.cols,
                                     reinterpret_cast<std::byte*>(tensor + detail::index_offset<T>(p)));
    }
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

/// Whether L is a wrapper under which nothing is trained (layer/frozen.hpp).
template <class L>
constexpr bool freezes() noexcept {
    if constexpr (requires { L::is_frozen; }) {
        return L::is_frozen;
    } else {
        return false;
    }
}

/// Elements in the buffer of what is trained, and in the buffer of what is not.
struct extent {
    index_t trained = 0;
    index_t frozen = 0;

    constexpr extent operator+(const extent& o) const noexcept {
        return {trained + o.trained, frozen + o.frozen};
    }
    constexpr extent operator*(index_t n) const noexcept { return {n * trained, n * frozen}; }
};

template <class L, class T>
constexpr extent parameter_extent() noexcept;

namespace detail {

// Places of own tensors and, behind them, of the children of one repetition; the last entry is the end.
template <class L, class T>
struct layout_of {
    static constexpr std::size_t own = own_count<L>();
    static constexpr std::size_t kids = children_of<L>::size;

    static constexpr extent own_end = [] {
        extent end;
        if constexpr (own > 0) {
            for (const parameter& p : L::parameters)
                (p.trained ? end.trained : end.frozen) += tensor_elements<T>(p);
        }
        return end;
    }();

    static constexpr auto own_places = [] {
        std::array<tensor_place, own + 1> places{};
        extent end;
        if constexpr (own > 0) {
            for (std::size_t i = 0; i < own; ++i) {
                const parameter& p = L::parameters[i];
                index_t& at = p.trained ? end.trained : end.frozen;
                places[i] = {at, p.trained};
                at += tensor_elements<T>(p);
            }
        }
        return places;
    }();

    static constexpr auto child_offsets = [] {
        std::array<extent, kids + 1> offsets{};
        for_each_index<kids>([&](auto i) {
            offsets[i + 1] = offsets[i] + parameter_extent<typename children_of<L>::template at<i>, T>();
        });
        return offsets;
    }();
};

}  // namespace detail

/// Elements of layer L, children included.
template <class L, class T>
constexpr extent parameter_extent() noexcept {
    using layout = detail::layout_of<L, T>;
    const extent all = layout::own_end + layout::child_offsets.back() * repetitions<L>();
    return freezes<L>() ? extent{0, all.trained + all.frozen} : all;
}

/// The parameters (or gradients) of layer L inside the buffers of its network. References to gradients of
/// what is not trained hold null; a layer then computes none.
template <class L, class T>
struct param_ref {
    using scalar = std::remove_const_t<T>;
    using layout = detail::layout_of<L, scalar>;

    T* trained = nullptr;
    T* frozen = nullptr;

    constexpr param_ref() = default;
    constexpr explicit param_ref(T* t, T* f = nullptr) noexcept : trained(t), frozen(f) {}

    /// Gradients: whether anybody wants them.
    constexpr explicit operator bool() const noexcept { return trained != nullptr; }

    /// Own tensor i, in the order of L::parameters.
    constexpr T* operator[](index_t i) const noexcept { return tensors()[i]; }
    constexpr tensor_list<T> tensors() const noexcept { return {trained, frozen, layout::own_places.data()}; }

    /// Own tensor i as a weight matrix; m picks one of a stack.
    template <std::size_t I>
    constexpr kernel::panel_view<T> panels(index_t m = 0) const noexcept {
        constexpr parameter p = L::parameters[I];
        static_assert(std::is_const_v<T> || p.form != storage::sparse_panels,
                      "mox: sparse panels are written by params::write, which indexes their values");
        using columns = kernel::panel_layout<scalar>;
        constexpr index_t cols =
            p.form == storage::gated_panels ? columns::padded_gated(p.cols) : columns::padded(p.cols);
        return {(*this)[static_cast<index_t>(I)] + m * matrix_elements<scalar>(p), p.rows, cols};
    }

    /// The values of own tensor i that are not zero; it has sparse panels.
    template <std::size_t I>
    kernel::sparse_rows<scalar> sparse(index_t m = 0) const noexcept {
        constexpr parameter p = L::parameters[I];
        static_assert(p.form == storage::sparse_panels);
        const scalar* const from = (*this)[static_cast<index_t>(I)] + m * matrix_elements<scalar>(p);
        return {reinterpret_cast<const std::byte*>(from + detail::index_offset<scalar>(p)), p.rows, p.cols};
    }

    template <std::size_t I>
    constexpr auto child(index_t repetition = 0) const noexcept {
        using kid = param_ref<typename children_of<L>::template at<I>, T>;
        constexpr extent all = layout::own_end + layout::child_offsets.back() * repetitions<L>();
        const extent at =
            layout::own_end + layout::child_offsets.back() * repetition + layout::child_offsets[I];
        if constexpr (freezes<L>()) {
            if (frozen == nullptr) return kid();
            return kid(frozen + at.trained, frozen + all.trained + at.frozen);
        } else {
            return kid(trained == nullptr ? nullptr : trained + at.trained,
                       frozen == nullptr ? nullptr : frozen + at.frozen);
        }
    }
};

namespace detail {

// The path of child I of L in repetition r. Children have numbers, or the names L gives them.
template <class L, std::size_t I>
std::string child_path(const std::string& path, index_t r) {
    const std::string prefix = path.empty() ? "" : path + ".";
    if constexpr (requires { L::child_names; }) {
        return prefix + std::string(L::child_names[I]);
    } else {
        return prefix +
               std::to_string(r * static_cast<index_t>(children_of<L>::size) + static_cast<index_t>(I));
    }
}

template <class L>
inline constexpr bool names_children = requires {
    L::child_names;
};

// The weight of a child with a name has that name and no other.
inline std::string tensor_path(const std::string& path, std::string_view tensor, bool named = false) {
    if (path.empty()) return std::string(tensor);
    return named && tensor == "weight" ? path : path + "." + std::string(tensor);
}

template <class L, class T, class Visit>
void visit_parameters(Visit&& visit, const std::string& path, extent& at, index_t& ordinal, bool trained,
                      bool named) {
    if constexpr (requires { L::parameters; }) {
        for (parameter p : L::parameters) {
            index_t& offset = p.trained ? at.trained : at.frozen;
            const index_t here = offset;
            offset += tensor_elements<T>(p);
            p.trained = p.trained && trained;
            visit(p, here, tensor_path(path, p.name, named), ordinal);
            ++ordinal;
        }
    }
    constexpr extent all = parameter_extent<L, T>();
    // Under a freezing wrapper both parts follow each other in the buffer of what is not trained.
    extent inside = at;
    if constexpr (freezes<L>()) {
        inside = {at.frozen, at.frozen + (layout_of<L, T>::child_offsets.back() * repetitions<L>()).trained};
        at.frozen += all.frozen;
    }
    extent& cursor = freezes<L>() ? inside : at;
    for (index_t r = 0; r < repetitions<L>(); ++r) {
        for_each_index<children_of<L>::size>([&](auto i) {
            using child = typename children_of<L>::template at<i>;
            visit_parameters<child, T>(visit, child_path<L, i>(path, r), cursor, ordinal,
                                       trained && !freezes<L>(), names_children<L>);
        });
    }
}

}  // namespace detail

/// Calls visit(parameter, offset, path, ordinal) for every tensor of L, in the order of the network. The
/// offset counts in the buffer that parameter.trained names; the path reads like "2.experts.gate_up"; the
/// ordinal counts tensors and is the same for every scalar type.
template <class L, class T, class Visit>
void for_each_parameter(Visit&& visit) {
    extent at;
    index_t ordinal = 0;
    detail::visit_parameters<L, T>(visit, std::string(), at, ordinal, true, false);
}

}  // namespace mox::inline MOX_ABI
