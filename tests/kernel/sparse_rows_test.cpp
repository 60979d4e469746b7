#include <mox/kernel/sparse_rows.hpp>

#include <algorithm>
#include <limits>
#include <vector>

#include <mox/core/buffer.hpp>
#include <mox/exec/thread_pool.hpp>
#include <mox/kernel/reference/gemm.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"
#include "../support/panels.hpp"

using namespace mox;
using mox_test::guarded_rows;
using mox_test::normal_numbers;

namespace {

template <class T>
struct sparse_case {
    using layout = kernel::panel_layout<T>;
    index_t ranks, cols;
    buffer<T> panels;
    std::vector<std::byte> index;

    // keep(r, c): whether the value is not zero.
    template <class Keep>
    sparse_case(index_t ranks_, index_t cols_, Keep&& keep)
        : ranks(ranks_), cols(cols_), panels(ranks * layout::padded(cols)),
          index(static_cast<std::size_t>(kernel::sparse_rows<T>::bytes(ranks, cols)), std::byte{99}) {
        const auto numbers = normal_numbers<T>(ranks * cols, 3);
        for (index_t i = 0; i < panels.size(); ++i) panels[i] = T(0);
        const kernel::panel_view<T> w(panels.data(), ranks, layout::padded(cols));
        for (index_t r = 0; r < ranks; ++r) {
            for (index_t c = 0; c < cols; ++c)
                w(r, c) =
                    keep(r, c) ? numbers[static_cast<std::size_t>(r * cols + c)] : T(c % 2 ? -0.0 : 0.0);
        }
    }
    kernel::panel_view<const T> view() const { return {panels.data(), ranks, layout::padded(cols)}; }
    kernel::sparse_rows<T> find() {
        kernel::index_sparse_rows<T>(view(), cols, index.data());
        return {index.data(), ranks, cols};
    }
};

}  // namespace

TEMPLATE_TEST_CASE("sparse_rows: the plain product, for any shape", "[kernel][sparse_rows]", float, double) {
    using T = TestType;
    thread_pool pool(3);
    for (const index_t ranks : {index_t{1}, index_t{5}, index_t{32}, index_t{67}}) {
        for (const index_t cols : {index_t{1}, index_t{9}, index_t{64}, index_t{150}, index_t{256}}) {
            sparse_case<T> a(ranks, cols, [](index_t r, index_t c) { return (r + c + c * c / 3) % 3 == 1; });
            const auto sparse = a.find();
            REQUIRE(sparse.size() >= 0);
            std::vector<double> plain;
            for (index_t r = 0; r < ranks; ++r) {
                for (index_t c = 0; c < cols; ++c) plain.push_back(static_cast<double>(a.view()(r, c)));
            }
            for (const index_t rows : {index_t{0}, index_t{1}, index_t{17}, index_t{64}, index_t{203}}) {
                CAPTURE(ranks, cols, rows);
                guarded_rows<T> x(rows, cols, 1), z(rows, ranks, 2), parallel(rows, ranks, 4);
                kernel::sparse_transposed<T>({}, sparse, x.view(), z.view());
                kernel::sparse_transposed<T>(pool, sparse, x.view(), parallel.view());
                guarded_rows<double> x2(x), expected(z);
                kernel::reference::product_transposed<double>(x2.view(), nullptr, {plain.data(), ranks, cols},
                                                              expected.view(), false);
                // At most 64 products of size about 1.
                CHECK(mox_test::difference(z, expected) < (std::is_same_v<T, float> ? 5e-5 : 1e-13));
                CHECK(z.guards_hold());
                bool same = true;
                for (index_t t = 0; t < rows; ++t) {
                    for (index_t r = 0; r < ranks; ++r) same = same && z(t, r) == parallel(t, r);
                }
                CHECK(same);
            }
        }
    }
}

TEMPLATE_TEST_CASE("sparse_rows: sums are handed out once each, and lanes without a token hold zero",
                   "[kernel][sparse_rows]", float, double) {
    using T = TestType;
    const index_t ranks = 70, cols = 130, tokens = 203;
    sparse_case<T> a(ranks, cols, [](index_t r, index_t c) { return (r + c + c * c / 3) % 3 == 1; });
    const auto sparse = a.find();
    guarded_rows<T> x(tokens, cols, 1), z(tokens, ranks, 2);
    kernel::sparse_transposed<T>({}, sparse, x.view(), z.view());
    std::vector<int> seen(static_cast<std::size_t>(tokens * ranks), 0);
    bool same = true, zero = true;
    kernel::sparse_sums<T>({}, sparse, x.view(), [&](const auto& sums) {
        for (index_t r = 0; r < sums.rows; ++r) {
            for (index_t i = 0; i < sums.pitch; ++i) {
                const T sum = sums.at[r * sums.pitch + i];
                if (i >= sums.count) {
                    zero = zero && sum == T(0);
                } else {
                    same = same && sum == z(sums.t0 + i, sums.r0 + r);
                    ++seen[static_cast<std::size_t>((sums.t0 + i) * ranks + sums.r0 + r)];
                }
            }
        }
    });
    CHECK(same);
    CHECK(zero);
    CHECK(std::all_of(seen.begin(), seen.end(), [](int times) { return times == 1; }));
}

TEST_CASE("sparse_rows: smallest numbers and NaN arrive, and only in their row", "[kernel][sparse_rows]") {
    sparse_case<float> a(3, 70, [](index_t, index_t) { return false; });
    const kernel::panel_view<float> w(a.panels.data(), 3, kernel::panel_layout<float>::padded(70));
    w(1, 69) = std::numeric_limits<float>::denorm_min();
    w(2, 3) = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> x(70, 1.0f), z(3, -1.0f);
    kernel::sparse_transposed<float>({}, a.find(), matrix_view<const float>(x.data(), 1, 70),
                                     matrix_view<float>(z.data(), 1, 3));
    CHECK(z[0] == 0);
    CHECK(z[1] == std::numeric_limits<float>::denorm_min());
    CHECK(z[2] != z[2]);
}

TEST_CASE("sparse_rows: rows that come from memory get the same bits", "[kernel][sparse_rows]") {
    const index_t ranks = 9, cols = 150, tokens = kernel::near_bytes() / (4 * cols) + 300;
    sparse_case<float> a(ranks, cols, [](index_t r, index_t c) { return (r + c + c * c / 3) % 3 == 1; });
    const auto sparse = a.find();
    REQUIRE(sparse.size() >= 0);
    guarded_rows<float> x(tokens, cols, 4), far(tokens, ranks, 5), near(tokens, ranks, 5);
    REQUIRE(kernel::asks_ahead(x.view()));
    kernel::sparse_transposed<float>({}, sparse, x.view(), far.view());
    for (index_t t = 0; t < tokens; t += 128) {
        const index_t n = std::min<index_t>(128, tokens - t);
        kernel::sparse_transposed<float>(
            {}, sparse, matrix_view<const float>(x.view().row(t), n, cols, x.view().stride),
            matrix_view<float>(near.view().row(t), n, ranks, near.view().stride));
    }
    CHECK(far.values == near.values);
}
