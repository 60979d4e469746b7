#pragma once

// Weight formats of fewer bits. A format is a type: what a weight becomes, how it lies in memory, what a row
// of activations becomes before it meets the weights. Products add up in 32-bit integers or floats.
//
// Memory is that of kernel/panels.hpp: panels of columns, inputs running slowest. What one 32-bit lane of a
// column holds differs:
//   bf16  two neighbouring inputs
//   int8  four neighbouring inputs; before them in the panel, per column, the scale and a correction
//   int4  eight inputs: the low nibbles of the four bytes are inputs 0..3, the high ones 4..7. Per group of
//         inputs the scales of the columns come first (and zero * scale, when zeros are not in the middle).
// A lane is what the dot instructions multiply, so that a product loads a register and multiplies it.

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <mox/core/parameter.hpp>
#include <mox/kernel/panels.hpp>

namespace mox::inline MOX_ABI {

namespace kernel {

/// f rounded to the nearest bf16, ties to even. Numbers beyond the largest become infinite, NaN stays NaN.
MOX_INLINE std::uint16_t to_bf16(float f) noexcept {
    const auto u = std::bit_cast<std::uint32_t>(f);
    const std::uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const std::uint32_t nan = (u >> 16) | 0x40u;
    return static_cast<std::uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}
MOX_INLINE float from_bf16(std::uint16_t h) noexcept {
    return std::bit_cast<float>(static_cast<std::uint32_t>(h) << 16);
}

/// The nearest integer, ties to even, at least `low` and at most `high`; v is not NaN.
inline int rounded_code(double v, int low, int high) noexcept {
    return static_cast<int>(std::nearbyint(std::clamp(v, double(low), double(high))));
}

namespace detail {
template <class V>
V read_as(const std::byte* p) noexcept {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
template <class V>
void write_as(std::byte* p, V v) noexcept {
    std::memcpy(p, &v, sizeof v);
}
}  // namespace detail

}  // namespace kernel

namespace weight {

/// What a format does with the rows that are multiplied with the weights.
enum class rows {
    quantised,  ///< rounded to the numbers that the dot instructions take; the fast way
    exact,      ///< as they are: weights are widened first, so only memory is saved
};

/// Zero points of a group.
enum class zero { middle, moving };

/// Not packed at all: float or double like everything else.
struct f32 {
    static constexpr std::string_view name = "f32";
};

/// 16 bits: sign, 8 bits of exponent, 7 of fraction.
/// |w - w'| <= 2^-8 |w|, below 2^-126 at most 2^-126 (hardware takes those as zero). Rows are rounded the
/// same way. Weights beyond 3.39e38 become infinite.
struct bf16 {
    static constexpr std::string_view name = "bf16";
    static constexpr rows row_rule = rows::quantised;
    static constexpr index_t bytes_of_column(index_t k) noexcept { return 4 * divide_up(k, 2); }

    /// Writes column c, stride `width` lanes, of the panel at `to`.
    static void pack(const double* w, index_t k_size, index_t stride, std::byte* to, index_t width,
                     index_t c) noexcept {
        for (index_t k = 0; k < k_size; ++k) {
            // Through float: a double rounds twice, by at most 2^-25 more.
            kernel::detail::write_as(to + (k / 2 * width + c) * 4 + k % 2 * 2,
                                     kernel::to_bf16(static_cast<float>(w[k * stride])));
        }
    }
    /// Weight (k, c) of a panel.
    static double value(const std::byte* panel, index_t width, index_t /*k_size*/, index_t k,
                        index_t c) noexcept {
        return kernel::from_bf16(
            kernel::detail::read_as<std::uint16_t>(panel + (k / 2 * width + c) * 4 + k % 2 * 2));
    }
};

/// 8 bits and one scale per output column: s = max|w| / 127, w' = s round(w / s). |w - w'| <= s / 2.
/// Rows become bytes too unless Rows says exact: s_x = max(max|x|, 1e-5) / 127, |x - x'| <= s_x / 2.
/// A column (a row) with NaN or infinity in it becomes NaN.
template <rows Rows = rows::quantised>
struct int8 {
    static constexpr std::string_view name = "int8";
    static constexpr rows row_rule = Rows;
    static constexpr index_t header = 8;  ///< bytes per column: the scale, -128 times the sum of the codes
    static constexpr index_t bytes_of_column(index_t k) noexcept { return header + 4 * divide_up(k, 4); }

    static void pack(const double* w, index_t k_size, index_t stride, std::byte* to, index_t width,
                     index_t c) noexcept {
        double largest = 0, probe = 0;
        for (index_t k = 0; k < k_size; ++k) {
            largest = std::max(largest, std::abs(w[k * stride]));
            probe += w[k * stride] * 0;
        }
        const bool finite = probe == 0;
        const double s = largest > 0 ? largest / 127 : 1;
        std::int32_t sum = 0;
        for (index_t k = 0; k < k_size; ++k) {
            const int q = finite ? kernel::rounded_code(w[k * stride] / s, -127, 127) : 0;
            sum += q;
            to[header * width + (k / 4 * width + c) * 4 + k % 4] = static_cast<std::byte>(q);
        }
        kernel::detail::write_as(to + 4 * c,
                                 finite ? static_cast<float>(s) : std::numeric_limits<float>::quiet_NaN());
        kernel::detail::write_as(to + 4 * (width + c), -128 * sum);
    }
    static double value(const std::byte* panel, index_t width, index_t /*k_size*/, index_t k,
                        index_t c) noexcept {
        const auto q = static_cast<std::int8_t>(panel[header * width + (k / 4 * width + c) * 4 + k % 4]);
        return double(q) * kernel::detail::read_as<float>(panel + 4 * c);
    }
};

/// 4 bits, one scale per output column and group of `Group` neighbouring inputs.
///   zero::middle  s = max|w| / 7, code round(w / s) in -8..7
///   zero::moving  s = (max - min) / 15 with zero among the values, z = round(-min / s), code in 0..15,
///                 w' = s (code - z)
/// |w - w'| <= s / 2. Rows become bytes as in int8. A group with NaN or infinity in it becomes NaN.
/// 64 inputs a group: 4.5 bits a weight, and the sums of a group stay in registers long enough.
template <index_t Group = 64, zero Zero = zero::middle, rows Rows = rows::quantised>
struct int4 {
    static_assert(Group > 0, "mox::weight::int4: the group must have at least one input");

    static constexpr std::string_view name = "int4";
    static constexpr rows row_rule = Rows;
    static constexpr index_t group = Group;
    static constexpr bool moving = Zero == zero::moving;
    /// Inputs of a group in memory: whole lanes.
    static constexpr index_t padded_group = round_up(Group, 8);
    static constexpr index_t header = moving ? 8 : 4;
    static constexpr index_t bytes_of_group = header + padded_group / 2;  ///< per column
    static constexpr index_t groups(index_t k) noexcept { return divide_up(k, Group); }
    static constexpr index_t bytes_of_column(index_t k) noexcept { return groups(k) * bytes_of_group; }

    static void pack(const double* w, index_t k_size, index_t stride, std::byte* to, index_t width,
                     index_t c) noexcept {
        for (index_t g = 0; g < groups(k_size); ++g) {
            std::byte* const base = to + g * bytes_of_group * width;
            const index_t begin = g * Group, size = std::min(Group, k_size - begin);
            double low = 0, high = 0, probe = 0;
            for (index_t r = 0; r < size; ++r) {
                const double v = w[(begin + r) * stride];
                low = std::min(low, v);
                high = std::max(high, v);
                probe += v * 0;
            }
            const bool finite = probe == 0;
            const double range = moving ? (high - low) / 15 : std::max(high, -low) / 7;
            const double s = range > 0 ? range : 1;
            const int z = moving && finite ? kernel::rounded_code(-low / s, 0, 15) : 8;
            for (index_t r = 0; r < padded_group; ++r) {
                int q = z;  // zero, also behind the last input
                if (r < size && finite) {
                    const double v = std::nearbyint(w[(begin + r) * stride] / s) + z;
                    q = static_cast<int>(std::clamp(v, 0.0, 15.0));
                }
                std::byte& at = base[header * width + (r / 8 * width + c) * 4 + r % 4];
                at |= static_cast<std::byte>(q << (r % 8 < 4 ? 0 : 4));
            }
            const float scale = finite ? static_cast<float>(s) : std::numeric_limits<float>::quiet_NaN();
            kernel::detail::write_as(base + 4 * c, scale);
            if constexpr (moving)
                kernel::detail::write_as(base + 4 * (width + c), scale * static_cast<float>(z));
        }
    }
    static double value(const std::byte* panel, index_t width, index_t /*k_size*/, index_t k,
                        index_t c) noexcept {
        const std::byte* const base = panel + k / Group * bytes_of_group * width;
        const index_t r = k % Group;
        const auto both = static_cast<int>(base[header * width + (r / 8 * width + c) * 4 + r % 4]);
        const int q = r % 8 < 4 ? both & 15 : both >> 4;
        const double s = kernel::detail::read_as<float>(base + 4 * c);
        if constexpr (moving) {
            return s * q - double(kernel::detail::read_as<float>(base + 4 * (width + c)));
        } else {
            return s * (q - 8);
        }
    }
};

}  // namespace weight

namespace kernel {

/// Whether a format is packed.
template <class F>
inline constexpr bool is_packed = !std::is_same_v<F, weight::f32>;

/// A packed matrix of K x N: its columns as in panel_layout, padded to whole registers of float.
template <class F, class Arch = simd::default_arch>
struct packed_view {
    using layout = panel_layout<float, Arch>;

    const std::byte* data = nullptr;
    index_t rows = 0;  ///< K
    index_t cols = 0;  ///< columns in memory

    static constexpr index_t columns(index_t n, bool gated) noexcept {
        return gated ? layout::padded_gated(n) : layout::padded(n);
    }
    /// Bytes of a matrix, a multiple of the alignment.
    static constexpr index_t bytes(index_t k, index_t n, bool gated) noexcept {
        return round_up(F::bytes_of_column(k) * columns(n, gated), static_cast<index_t>(alignment));
    }

    constexpr index_t panels() const noexcept { return divide_up(cols, layout::width); }
    constexpr index_t width(index_t p) const noexcept {
        return std::min(layout::width, cols - p * layout::width);
    }
    constexpr index_t offset(index_t p) const noexcept {
        return F::bytes_of_column(rows) * p * layout::width;
    }
    constexpr const std::byte* panel(index_t p) const noexcept { return data + offset(p); }
};

namespace detail {

template <class F, class Arch, class Visit>
void for_each_packed_column(index_t rows, index_t n, bool gated, Visit&& visit) {
    using view = packed_view<F, Arch>;
    const view whole{nullptr, rows, view::columns(n, gated)};
    for (index_t j = 0; j < (gated ? 2 : 1) * n; ++j) {
        const index_t part = j < n ? 0 : 1;
        const index_t col = gated ? view::layout::gated_column(n, j - part * n, part) : j;
        const index_t p = col / view::layout::width;
        visit(j, whole.offset(p), whole.width(p), col - p * view::layout::width);
    }
}

}  // namespace detail

/// A format as tensors see it (core/parameter.hpp).
template <class F, class Arch = simd::default_arch>
inline constexpr packed_format packed_format_of{
    F::name, [](index_t rows, index_t n, bool gated) { return packed_view<F, Arch>::bytes(rows, n, gated); },
    [](const double* values, index_t rows, index_t n, bool gated, void* to) {
        std::memset(to, 0, static_cast<std::size_t>(packed_view<F, Arch>::bytes(rows, n, gated)));
        detail::for_each_packed_column<F, Arch>(rows, n, gated,
                                                [&](index_t j, index_t offset, index_t width, index_t c) {
                                                    F::pack(values + j, rows, (gated ? 2 : 1) * n,
                                                            static_cast<std::byte*>(to) + offset, width, c);
                                                });
    },
    [](const void* from, index_t rows, index_t n, bool gated, double* values) {
        detail::for_each_packed_column<F, Arch>(
            rows, n, gated, [&](index_t j, index_t offset, index_t width, index_t c) {
                for (index_t k = 0; k < rows; ++k) {
                    values[k * (gated ? 2 : 1) * n + j] =
                        F::value(static_cast<const std::byte*>(from) + offset, width, rows, k, c);
                }
            });
    }};

}  // namespace kernel

}  // namespace mox::inline MOX_ABI
