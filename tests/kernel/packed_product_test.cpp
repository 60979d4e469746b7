#include <mox/kernel/packed_product.hpp>

#include <mox/exec/thread_pool.hpp>

#include "../support/catch.hpp"
#include "../support/formats.hpp"

using namespace mox;
using namespace mox_test;

namespace {

constexpr index_t K = 45, N = 83, E = 4;

template <class F>
struct bank {
    buffer<std::byte> memory;
    std::vector<double> wide;  // E x K x N

    bank()
        : memory(E * kernel::packed_format_of<F>.bytes(K, N, false)),
          wide(static_cast<std::size_t>(E * K * N)) {
        const auto& format = kernel::packed_format_of<F>;
        for (index_t e = 0; e < E; ++e) {
            const auto w = normal_numbers<double>(K * N, 7 + static_cast<std::uint64_t>(e));
            std::byte* const to = memory.data() + e * format.bytes(K, N, false);
            format.pack(w.data(), K, N, false, to);
            format.unpack(to, K, N, false, wide.data() + e * K * N);
        }
    }
    kernel::packed_stack<F> stack() const { return {memory.data(), K, N, false}; }
};

}  // namespace

TEST_CASE("grouped packed products to tokens", "[kernel][packed]") {
    // Expert 1 has no slot, token 2 none, token 0 two.
    const std::vector<row_t> offsets{0, 2, 2, 9, 10}, token{0, 3, 0, 1, 3, 4, 5, 6, 7, 1};
    const auto gate = normal_numbers<float>(10, 3);
    const kernel::group_view groups{offsets.data(), E};
    for_each_format([&](auto format) {
        using F = decltype(format);
        const bank<F> w;
        const auto x = normal_numbers<float>(10 * K, 9);
        arena memory;
        const auto rows = kernel::packed_rows<F, float>::take(memory, 10, K);
        kernel::pack_rows<F, float>({}, matrix_view<const float>(x.data(), 10, K), rows);
        for (const bool accumulate : {false, true}) {
            std::vector<float> y(static_cast<std::size_t>(8 * N), 0.25f), first;
            for (const index_t threads : {1, 2, 3}) {
                thread_pool pool(threads);
                std::vector<float> z = y;
                kernel::grouped_packed_to_tokens<F, float>(pool, groups, token.data(), rows, gate.data(),
                                                           w.stack(), matrix_view<float>(z.data(), 8, N),
                                                           accumulate);
                if (first.empty()) first = z;
                CHECK(z == first);
            }
            for (index_t t = 0; t < 8; ++t) {
                for (index_t n = 0; n < N; ++n) {
                    double sum = accumulate ? 0.25 : 0;
                    for (index_t e = 0; e < E; ++e) {
                        for (index_t s = groups.begin(e); s < groups.end(e); ++s) {
                            if (token[static_cast<std::size_t>(s)] != t) continue;
                            double dot = 0;
                            for (index_t k = 0; k < K; ++k)
                                dot += kernel::reference::row_value<F>(rows(s).codes, k) *
                                       double(rows(s).scale) *
                                       w.wide[static_cast<std::size_t>((e * K + k) * N + n)];
                            sum += double(gate[static_cast<std::size_t>(s)]) * dot;
                        }
                    }
                    CAPTURE(F::name, t, n);
                    REQUIRE(std::abs(double(first[static_cast<std::size_t>(t * N + n)]) - sum) < 1e-4);
                }
            }
        }
    });
}

TEST_CASE("widened matrices are panels of the same values", "[kernel][packed]") {
    for_each_format([](auto format) {
        using F = decltype(format);
        const bank<F> w;
        const auto check = [&](auto zero) {
            using T = decltype(zero);
            using layout = kernel::panel_layout<T>;
            for (const bool gated : {false, true}) {
                const index_t n = gated ? 41 : N;
                buffer<std::byte> memory(kernel::packed_format_of<F>.bytes(K, n, gated));
                const index_t all = gated ? 2 * n : n;
                const auto from = normal_numbers<double>(K * all, 3);
                std::vector<double> values(from.size());
                kernel::packed_format_of<F>.pack(from.data(), K, n, gated, memory.data());
                kernel::packed_format_of<F>.unpack(memory.data(), K, n, gated, values.data());
                const index_t cols = gated ? layout::padded_gated(n) : layout::padded(n);
                std::vector<T> panels(static_cast<std::size_t>(K * cols), T(99));
                kernel::widen<F, T>({}, kernel::packed_stack<F>(memory.data(), K, n, gated).first, n, gated,
                                    panels.data());
                T sum = 0;
                for (index_t k = 0; k < K; ++k) {
                    for (index_t j = 0; j < all; ++j) {
                        const index_t col = gated ? layout::gated_column(n, j % n, j / n) : j;
                        const T got = panels[static_cast<std::size_t>(layout::offset(K, cols, k, col))];
                        REQUIRE(got == static_cast<T>(values[static_cast<std::size_t>(k * all + j)]));
                        sum += std::abs(got);
                    }
                }
                for (const T v : panels) sum -= std::abs(v);
                CHECK(std::abs(sum) < T(0.1));  // padding is zero
            }
        };
        check(0.0f);
        check(0.0);
    });
}
