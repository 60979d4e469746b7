#include <mox/kernel/ranks.hpp>

#include <cmath>
#include <vector>

#include <mox/exec/thread_pool.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"

using namespace mox;
using mox_test::normal_numbers;

namespace {

// Lists of k of R rows for T tokens, some places empty.
std::vector<row_t> lists(index_t tokens, index_t k, index_t ranks) {
    std::vector<row_t> chosen;
    for (index_t t = 0; t < tokens; ++t) {
        for (index_t j = 0; j < k; ++j)
            chosen.push_back((t + j) % 7 == 3 ? row_t{-1} : static_cast<row_t>((t * 5 + j * 3) % ranks));
    }
    return chosen;
}

template <class T>
void check_lists(index_t tokens, index_t k, index_t ranks, index_t width, executor_ref exec) {
    CAPTURE(tokens, k, ranks, width);
    const auto b = normal_numbers<T>(ranks * width, 3), y0 = normal_numbers<T>(tokens * width, 4),
               weight = normal_numbers<T>(tokens * k, 5);
    const auto chosen = lists(tokens, k, ranks);
    using layout = kernel::panel_layout<T>;
    buffer<T> panels(ranks * layout::padded(width)), gradient(ranks * layout::padded(width));
    const kernel::panel_view<T> view(panels.data(), ranks, layout::padded(width)),
        db(gradient.data(), ranks, layout::padded(width));
    for (index_t r = 0; r < ranks; ++r) {
        for (index_t j = 0; j < width; ++j) view(r, j) = b[static_cast<std::size_t>(r * width + j)];
    }
    for (index_t i = 0; i < gradient.size(); ++i) gradient[i] = T(7);

    std::vector<T> y = y0, out(static_cast<std::size_t>(tokens * k), T(-9));
    kernel::add_chosen_rows<T>(exec, chosen.data(), weight.data(), k, view,
                               matrix_view<T>(y.data(), tokens, width));
    kernel::dot_chosen_rows<T>(exec, matrix_view<const T>(y0.data(), tokens, width), chosen.data(), k, view,
                               out.data());
    kernel::chosen_rows_gradient<T>(exec, chosen.data(), weight.data(), k,
                                    matrix_view<const T>(y0.data(), tokens, width), db, false);

    const double bound = std::is_same_v<T, float> ? 2e-5 : 1e-13;
    std::vector<double> sums(static_cast<std::size_t>(ranks * width), 0.0);
    for (index_t t = 0; t < tokens; ++t) {
        std::vector<double> row(y0.begin() + t * width, y0.begin() + (t + 1) * width);
        for (index_t j = 0; j < k; ++j) {
            const auto i = static_cast<std::size_t>(t * k + j);
            if (chosen[i] < 0) {
                CHECK(out[i] == T(0));
                continue;
            }
            double dot = 0;
            for (index_t c = 0; c < width; ++c) {
                const auto at = static_cast<std::size_t>(chosen[i] * width + c);
                const double x = static_cast<double>(y0[static_cast<std::size_t>(t * width + c)]);
                row[static_cast<std::size_t>(c)] +=
                    static_cast<double>(weight[i]) * static_cast<double>(b[at]);
                dot += x * static_cast<double>(b[at]);
                sums[at] += static_cast<double>(weight[i]) * x;
            }
            CHECK(std::abs(static_cast<double>(out[i]) - dot) <
                  bound * std::sqrt(static_cast<double>(width)));
        }
        for (index_t c = 0; c < width; ++c) {
            CHECK(std::abs(static_cast<double>(y[static_cast<std::size_t>(t * width + c)]) -
                           row[static_cast<std::size_t>(c)]) < bound * static_cast<double>(k));
        }
    }
    for (index_t r = 0; r < ranks; ++r) {
        for (index_t c = 0; c < width; ++c) {
            CHECK(std::abs(static_cast<double>(db(r, c)) - sums[static_cast<std::size_t>(r * width + c)]) <
                  bound * std::sqrt(static_cast<double>(tokens) + 1));
        }
        // The unused columns of the last panel stay zero.
        for (index_t c = width; c < layout::padded(width); ++c) CHECK(db(r, c) == T(0));
    }
    kernel::chosen_rows_gradient<T>(exec, chosen.data(), weight.data(), k,
                                    matrix_view<const T>(y0.data(), tokens, width), db, true);
    for (index_t r = 0; r < ranks; ++r) {
        for (index_t c = 0; c < width; ++c) {
            CHECK(
                std::abs(static_cast<double>(db(r, c)) - 2 * sums[static_cast<std::size_t>(r * width + c)]) <
                2 * bound * std::sqrt(static_cast<double>(tokens) + 1));
        }
    }
}

}  // namespace

TEMPLATE_TEST_CASE("ranks: chosen rows against plain loops", "[kernel][ranks]", float, double) {
    thread_pool pool(2);
    for (const index_t width : {1, 7, 16, 33, 64, 150}) {
        for (const index_t k : {1, 3, 8, 11}) check_lists<TestType>(9, k, 13, width, {});
    }
    check_lists<TestType>(0, 3, 5, 20, {});
    check_lists<TestType>(1, 2, 2, 70, pool);
    check_lists<TestType>(130, 4, 32, 150, pool);
}
