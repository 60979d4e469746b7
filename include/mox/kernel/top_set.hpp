#pragma once

// Selection for gates that weigh all they choose alike: the K largest of each row as a set, in the order of
// their places. Ties go to the lowest index; NaN counts as smaller than everything. Lanes are rows.

#include <algorithm>
#include <array>
#include <bit>
#include <type_traits>
#include <utility>

#include <mox/exec/executor.hpp>
#include <mox/kernel/topk.hpp>
#include <mox/simd/ordered.hpp>
#include <mox/simd/transpose.hpp>

namespace mox::inline MOX_ABI::kernel {

namespace detail {

// Comparators of a network that sorts P registers, the largest first: Batcher's odd-even merges. P: a power
// of two.
template <int P>
constexpr auto sorting_network() {
    std::array<std::array<int, 2>, static_cast<std::size_t>(P * P)> all{};
    std::size_t size = 0;
    for (int p = 1; p < P; p *= 2) {
        for (int k = p; k >= 1; k /= 2) {
            for (int i = k % p; i + k < P; i += 2 * k) {
                for (int j = i; j < i + k && j + k < P; ++j) {
                    if (j / (2 * p) == (j + k) / (2 * p)) all[size++] = {j, j + k};
                }
            }
        }
    }
    return std::pair{all, size};
}

// The same for registers that fall and then rise, or rise and then fall.
template <int P>
constexpr auto merging_network() {
    std::array<std::array<int, 2>, static_cast<std::size_t>(P * P)> all{};
    std::size_t size = 0;
    for (int k = P / 2; k >= 1; k /= 2) {
        for (int i = 0; i < P; ++i) {
            if ((i & k) == 0) all[size++] = {i, i + k};
        }
    }
    return std::pair{all, size};
}

template <auto Network, class V, std::size_t P>
MOX_INLINE void exchange(V (&v)[P]) noexcept {
    const auto step = [&]<int I, int J>() __attribute__((always_inline)) {
        const V larger = max(v[I], v[J]), smaller = min(v[I], v[J]);
        v[I] = larger;
        v[J] = smaller;
    };
    [&]<std::size_t... I>(std::index_sequence<I...>) __attribute__((always_inline)) {
        (step.template operator()<Network.first[I][0], Network.first[I][1]>(), ...);
    }
    (std::make_index_sequence<Network.second>{});
}

// The choice of one lane in which values are equal, or not a number.
template <int K, int N, class T, class Arch, class Key>
MOX_NOINLINE void top_set_of_lane(const T* turned, index_t pitch, const Key& key, row_t* chosen) {
    using ordered = simd::ordered<T, Arch>;
    alignas(64) typename ordered::number lanes[ordered::L];
    T keys[static_cast<std::size_t>(N)];
    for (int i = 0; i < N; ++i) {
        key(simd::batch<T, Arch>(turned[i * pitch]), i).store(lanes);
        keys[i] = ordered::value(lanes[0]);
    }
    top_k_row<T>(keys, N, K, chosen);
    std::sort(chosen, chosen + K);
}

}  // namespace detail

/// take(i, j, place): the j-th of the K largest numbers key(value, 0 ... N - 1), simd::ordered, of row i, for
/// `rows` rows, at most as many as a register has lanes. turned: value j of row i at [j * pitch + i]; all
/// lanes are read. Measured with 512 rows, the 8 largest of 32: 0.70 of the time of top_k_rows, 0.56 where
/// the values lie turned already.
template <int K, int N, class T, class Arch = simd::default_arch, class Key, class Take>
MOX_NOINLINE void top_set_lanes(const T* turned, index_t pitch, index_t rows, const Key& key,
                                const Take& take) {
    static_assert(0 < K && K <= N);
    using ordered = simd::ordered<T, Arch>;
    using number = typename ordered::number;
    using word = std::make_unsigned_t<number>;
    constexpr int bits = static_cast<int>(8 * sizeof(number)), words = (N + bits - 1) / bits;
    const auto value = [&](int i) __attribute__((always_inline)) {
        return key(simd::load<T, Arch>(turned + i * pitch), i);
    };
    // First the K-th largest value of each lane, then the bits of those that are not smaller. The best P stay
    // sorted: they and the next P, largest to smallest and back, are two halves of which one has the larger.
    constexpr int P = static_cast<int>(std::bit_ceil(static_cast<unsigned>(K)));
    ordered best[P];
#pragma GCC unroll 16
    for (int j = 0; j < P; ++j) best[j] = ordered::lowest();
    for (int i = 0; i < N; i += P) {
        ordered next[P];
#pragma GCC unroll 16
        for (int j = 0; j < P; ++j) next[j] = i + j < N ? value(i + j) : ordered::lowest();
        detail::exchange<detail::sorting_network<P>()>(next);
#pragma GCC unroll 16
        for (int j = 0; j < P; ++j) best[j] = max(best[j], next[P - 1 - j]);
        detail::exchange<detail::merging_network<P>()>(best);
    }
    alignas(64) number first[ordered::L], last[ordered::L], sets[words][ordered::L];
    best[0].store(first);
    best[K - 1].store(last);
    for (int w = 0; w < words; ++w) {
        ordered set = ordered::none();
        for (int i = 0; i < std::min(bits, N - w * bits); ++i) value(w * bits + i).mark(i, best[K - 1], set);
        set.store(sets[w]);
    }
    for (index_t lane = 0; lane < rows; ++lane) {
        int found = 0;
        for (int w = 0; w < words; ++w) found += std::popcount(static_cast<word>(sets[w][lane]));
        if (found != K || first[lane] > ordered::infinity || last[lane] < ~ordered::infinity) [[unlikely]] {
            row_t chosen[K];
            detail::top_set_of_lane<K, N, T, Arch>(turned + lane, pitch, key, chosen);
            for (int j = 0; j < K; ++j) take(lane, j, chosen[j]);
        } else if constexpr (words == 1) {
            auto left = static_cast<word>(sets[0][lane]);
#pragma GCC unroll 16
            for (int j = 0; j < K; ++j, left &= left - 1) {
                if (left == 0) __builtin_unreachable();
                take(lane, j, static_cast<row_t>(std::countr_zero(left)));
            }
        } else {
            for (int w = 0, j = 0; w < words; ++w) {
                for (auto left = static_cast<word>(sets[w][lane]); left != 0; left &= left - 1)
                    take(lane, j++, static_cast<row_t>(w * bits + std::countr_zero(left)));
            }
        }
    }
}

/// chosen: rows x K, the choice of each row of `values`, N columns; any number of rows.
template <int K, int N, class T, class Arch = simd::default_arch, class Key>
void top_set_rows(executor_ref exec, std::type_identity_t<matrix_view<const T>> values, const Key& key,
                  row_t* chosen) {
    constexpr index_t L = simd::lanes<T, Arch>;
    parallel_ranges(exec, values.rows, 256, [&](index_t begin, index_t end) {
        alignas(64) T turned[static_cast<std::size_t>(N * L)];
        for (index_t t = begin; t < end; t += L) {
            const index_t rows = std::min(L, end - t);
            simd::transpose_upto<T, Arch>(values.row(t), values.stride, rows, N, turned, L);
            top_set_lanes<K, N, T, Arch>(
                turned, L, rows, key,
                [to = chosen + t * K](index_t i, int j, row_t place) { to[i * K + j] = place; });
        }
    });
}

}  // namespace mox::inline MOX_ABI::kernel
