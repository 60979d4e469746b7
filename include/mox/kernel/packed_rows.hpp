#pragma once

// Rows of activations as packed weights want them: rounded to bf16, or to bytes with one scale a row.

#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>
#include <mox/kernel/packed_tile.hpp>
#include <mox/simd/batch.hpp>

namespace mox::inline MOX_ABI::kernel {

namespace detail {

/// Largest |x[i]|, and whether all are finite.
struct row_range {
    double largest = 0;
    bool finite = true;
};

template <class T, class Arch>
row_range range_of(const T* x, index_t n) {
    using batch = simd::batch<T, Arch>;
    batch largest(T(0)), probe(T(0));
    const batch zero(T(0));
    simd::for_each<T, Arch>(n, [&](index_t i, index_t count) {
        const batch v = simd::load_upto<T, Arch>(x + i, count);
        largest = simd::max(largest, simd::max(v, zero - v));
        probe = simd::fma(v, zero, probe);  // NaN as soon as one value is not finite
    });
    return {static_cast<double>(simd::reduce_max(largest)), simd::reduce_add(probe) == T(0)};
}

// Codes of x * inverse, ties to even, plus `shift`. |x * inverse| stays below 2^21.
MOX_NOINLINE inline void bytes_of_row(const float* x, index_t n, float inverse, int shift, std::byte* to) {
    constexpr float magic = 12582912.0f;  // 1.5 * 2^23: the integer appears in the last bits of the sum
    for (index_t i = 0; i < n; ++i) {
        to[i] = static_cast<std::byte>(std::bit_cast<std::int32_t>(x[i] * inverse + magic) + shift);
    }
}
inline void bytes_of_row(const double* x, index_t n, double inverse, int shift, std::byte* to) {
    for (index_t i = 0; i < n; ++i)
        to[i] = static_cast<std::byte>(rounded_code(x[i] * inverse, -127, 127) + shift);
}

MOX_NOINLINE inline void bf16_of_row(const float* x, index_t n, std::byte* to) {
    auto* const words = reinterpret_cast<std::uint16_t*>(to);
    for (index_t i = 0; i < n; ++i) words[i] = to_bf16(x[i]);
}
inline void bf16_of_row(const double* x, index_t n, std::byte* to) {
    for (index_t i = 0; i < n; ++i) write_as(to + 2 * i, to_bf16(static_cast<float>(x[i])));
}

MOX_NOINLINE inline std::int32_t sum_of_bytes(const std::byte* p, index_t n) {
    std::int32_t sum = 0;
    for (index_t i = 0; i < n; ++i) sum += static_cast<std::int8_t>(p[i]);
    return sum;
}

/// How format F wants a row of k values.
template <class F>
struct row_form;

template <>
struct row_form<weight::bf16> {
    static constexpr index_t bytes(index_t k) { return 2 * round_up(k, 2); }
    static constexpr index_t sums(index_t) { return 0; }
    template <class T, class Arch>
    static T write(const T* x, index_t k, std::byte* to, std::int32_t*) {
        bf16_of_row(x, k, to);
        if (k % 2 != 0) write_as(to + 2 * k, std::uint16_t{0});
        return T(1);
    }
};

template <class T>
T scale_of(const row_range& r) {
    if (!r.finite) return std::numeric_limits<T>::quiet_NaN();
    // Rows of next to nothing keep a scale that is not denormal.
    return static_cast<T>(std::max(r.largest, 1e-5) / 127);
}

template <weight::rows A>
struct row_form<weight::int8<A>> {
    static constexpr index_t bytes(index_t k) { return round_up(k, 4); }
    static constexpr index_t sums(index_t) { return 0; }
    template <class T, class Arch>
    static T write(const T* x, index_t k, std::byte* to, std::int32_t*) {
        const row_range r = range_of<T, Arch>(x, k);
        const T scale = scale_of<T>(r);
        // Unsigned, 128 too large: tile_int8 takes that back.
        std::fill(to + k / 4 * 4, to + bytes(k), std::byte{128});
        if (r.finite) {
            bytes_of_row(x, k, T(1) / scale, 128, to);
        } else {
            std::fill(to, to + bytes(k), std::byte{128});
        }
        return scale;
    }
};

template <index_t G, weight::zero Z, weight::rows A>
struct row_form<weight::int4<G, Z, A>> {
    using format = weight::int4<G, Z, A>;
    static constexpr index_t bytes(index_t k) { return format::groups(k) * format::padded_group; }
    static constexpr index_t sums(index_t k) { return format::groups(k); }
    template <class T, class Arch>
    static T write(const T* x, index_t k, std::byte* to, std::int32_t* sums) {
        const row_range r = range_of<T, Arch>(x, k);
        const T scale = scale_of<T>(r);
        for (index_t g = 0; g < format::groups(k); ++g) {
            const index_t size = std::min(G, k - g * G);
            std::byte* const codes = to + g * format::padded_group;
            if (!r.finite || size < format::padded_group)
                std::fill_n(codes, format::padded_group, std::byte{0});
            if (r.finite) bytes_of_row(x + g * G, size, T(1) / scale, 0, codes);
            sums[g] = sum_of_bytes(codes, format::padded_group);
        }
        return scale;
    }
};

}  // namespace detail

/// Rows of k values in the form of F.
template <class F, class T>
struct packed_rows {
    using form = detail::row_form<F>;

    std::byte* codes = nullptr;
    T* scale = nullptr;
    std::int32_t* sums = nullptr;
    index_t k = 0;
    index_t stride = 0;

    /// Room for `count` rows of k values.
    static packed_rows take(arena& from, index_t count, index_t k) {
        packed_rows r;
        r.k = k;
        r.stride = round_up(form::bytes(k), static_cast<index_t>(alignment));
        r.codes = from.take<std::byte>(count * r.stride);
        r.scale = from.take<T>(count);
        if (form::sums(k) > 0) r.sums = from.take<std::int32_t>(count * form::sums(k));
        return r;
    }

    packed_row<T> operator()(index_t i) const noexcept {
        return {codes + i * stride, scale[i], sums ? sums + i * form::sums(k) : nullptr};
    }
};

/// Rounds every row of x; they have `to.k` values.
template <class F, class T, class Arch = simd::default_arch>
void pack_rows(executor_ref exec, matrix_view<const T> x, packed_rows<F, T> to) {
    using form = detail::row_form<F>;
    // 8 rows of 1024 take a microsecond.
    parallel_ranges(exec, x.rows, 8, [&](index_t begin, index_t end) {
        for (index_t i = begin; i < end; ++i) {
            to.scale[i] = form::template write<T, Arch>(x.row(i), to.k, to.codes + i * to.stride,
                                                        to.sums ? to.sums + i * form::sums(to.k) : nullptr);
        }
    });
}

}  // namespace mox::inline MOX_ABI::kernel
