#include <mox/layer/packed.hpp>

#include <mox/mox.hpp>

#include "../support/catch.hpp"
#include "../support/formats.hpp"

using namespace mox;
using namespace mox_test;

TEST_CASE("packed linear: within the bounds of weights and rows, also hard ones", "[layer][packed]") {
    constexpr index_t K = 70, N = 37;
    for_each_format([](auto format) {
        using F = decltype(format);
        using layer = linear<K, N, bias::with, false, F>;
        params<layer> w;
        const auto hard = hard_vectors(K, 21);
        std::vector<std::vector<double>> columns;
        std::vector<float> flat_w(static_cast<std::size_t>(K * N)), bias_values = normal_numbers<float>(N, 3);
        for (index_t n = 0; n < N; ++n) {
            const std::size_t which = static_cast<std::size_t>(n) % hard.size();
            columns.push_back(n < static_cast<index_t>(hard.size())
                                  ? hard[which]
                                  : normal_numbers<double>(K, 900 + static_cast<std::uint64_t>(n)));
            for (index_t k = 0; k < K; ++k)
                flat_w[static_cast<std::size_t>(k * N + n)] =
                    static_cast<float>(columns.back()[static_cast<std::size_t>(k)]);
        }
        w.write("weight", flat_w);
        w.write("bias", bias_values);
        // Without the row of 3e30: its products with the column of 3e30 leave the range of float.
        auto rows = hard_vectors(K, 22);
        rows.erase(rows.begin() + 1);
        std::vector<float> x;
        for (const auto& r : rows) x.insert(x.end(), r.begin(), r.end());
        tape<layer> t;
        const auto y = infer<layer>(w, {x.data(), static_cast<index_t>(rows.size()), K}, t);
        for (index_t r = 0; r < y.rows; ++r) {
            const auto& row = rows[static_cast<std::size_t>(r)];
            for (index_t n = 0; n < N; ++n) {
                const auto& column = columns[static_cast<std::size_t>(n)];
                double exact = double(bias_values[static_cast<std::size_t>(n)]), bound = 1e-6, size = 0;
                for (index_t k = 0; k < K; ++k) {
                    const auto at = static_cast<std::size_t>(k);
                    const double a = std::abs(row[at]), b = std::abs(column[at]);
                    // Hardware takes denormal bf16 as zero.
                    const double tiny = std::is_same_v<F, weight::bf16> ? std::ldexp(1.0, -126) : 0;
                    const double da = row_bound<F>(row, k) + tiny, db = weight_bound<F>(column, k) + tiny;
                    exact += row[at] * column[at];
                    bound += da * b + a * db + da * db;
                    size += (a + da) * (b + db);
                }
                // Sums are rounded at most once per input and group, each within 2^-24 of what was summed.
                bound += 1.2e-7 * K * size;
                CAPTURE(F::name, r, n);
                REQUIRE(std::abs(double(y(r, n)) - exact) <= bound);
            }
        }
    });
}

TEST_CASE("packed linear: NaN and infinity in a row reach its outputs and no others", "[layer][packed]") {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), HUGE_VALF, -HUGE_VALF}) {
        for_each_format([&](auto format) {
            using layer = linear<40, 20, bias::none, false, decltype(format)>;
            const params<layer> w{init::standard, 1};
            auto x = normal_numbers<float>(3 * 40, 3);
            x[40 + 7] = bad;
            tape<layer> t;
            const auto y = infer<layer>(w, {x.data(), 3, 40}, t);
            for (index_t n = 0; n < 20; ++n) {
                CHECK(std::isfinite(y(0, n)));
                CHECK(!std::isfinite(y(1, n)));
                CHECK(std::isfinite(y(2, n)));
            }
        });
    }
}

TEST_CASE("packed linear: the gradient of the input is exact", "[layer][packed]") {
    for_each_format([](auto format) {
        using layer = linear<21, 35, bias::with, false, decltype(format)>;
        const auto r = gradcheck<layer>();
        INFO(decltype(format)::name << ": " << r.message);
        CHECK(r.passed);
        // Widened by hand.
        params<layer> w{init::standard, 1}, none;
        const auto x = normal_numbers<float>(4 * 21, 3), dy = normal_numbers<float>(4 * 35, 4);
        tape<layer> t;
        (void)forward<layer>(w, {x.data(), 4, 21}, t);
        for (index_t i = 0; i < 4; ++i) std::copy_n(dy.data() + i * 35, 35, t.output_grad().row(i));
        std::vector<float> dx(x.size());
        backward<layer>(w, t, none, matrix_view<float>(dx.data(), 4, 21));
        const auto wide = w.read("weight");
        for (std::size_t i = 0; i < 4; ++i) {
            for (std::size_t k = 0; k < 21; ++k) {
                double sum = 0;
                for (std::size_t n = 0; n < 35; ++n) sum += double(dy[i * 35 + n]) * double(wide[k * 35 + n]);
                CHECK(std::abs(sum - double(dx[i * 21 + k])) < 1e-5);
            }
        }
    });
}

TEST_CASE("packed linear: no rows", "[layer][packed]") {
    using layer = linear<8, 8, bias::none, false, weight::int8<>>;
    const params<layer> w{init::standard, 1};
    tape<layer> t;
    const float nothing = 0;
    CHECK(infer<layer>(w, {&nothing, 0, 8}, t).rows == 0);
}
