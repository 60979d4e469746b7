#include <mox/layer/magnitudes.hpp>

#include <cmath>
#include <vector>

#include <mox/kernel/reference/rows.hpp>

#include "../support/catch.hpp"
#include "../support/layers.hpp"
#include "../support/panels.hpp"

using namespace mox;
using namespace mox_test;

TEST_CASE("magnitudes: norms, products and gradients of each expert; one without rows is left out",
          "[layer][magnitudes]") {
    constexpr adapter_spec spec{.rank = 2, .alpha = 3};
    using scaling = detail::magnitudes<5, 70, spec>;
    constexpr index_t first = 9, E = 3;
    panel_matrices<double> w(1, 5, first + 70, 1), a(1, E * 2, 5, 2), b(1, E * 2, 70, 3);
    const auto m = normal_numbers<double>(E * 70, 4), x = normal_numbers<double>(5 * 70, 5),
               d = normal_numbers<double>(5 * 70, 6);
    const row_t offsets[] = {0, 3, 3, 5};
    const kernel::group_view groups{offsets, E};
    thread_pool pool(3);
    std::vector<double> once;
    for (const executor_ref exec : {executor_ref(), executor_ref(pool)}) {
        arena saved, scratch;
        context<double> ctx;
        ctx.exec = exec;
        ctx.saved = &saved;
        ctx.scratch = &scratch;
        const auto r = scaling::measure<double>(ctx, groups, w.view(), first, a.memory.data(),
                                                b.memory.data(), m.data());
        std::vector<double> y(5 * 70), dinner(d), dm(E * 70, 7.0);
        scaling::apply<double>(ctx, groups, r, {x.data(), 70}, {y.data(), 5, 70});
        const std::vector<double> kept = dm;
        scaling::backward<double>(ctx, groups, r, {x.data(), 5, 70}, {dinner.data(), 5, 70}, dm.data());
        for (std::size_t e : {std::size_t{0}, std::size_t{2}}) {
            for (std::size_t o = 0; o < 70; ++o) {
                std::vector<double> column, down, up;
                for (index_t i = 0; i < 5; ++i) {
                    column.push_back(w.at(0, i, first + static_cast<index_t>(o)));
                    for (index_t k = 0; k < 2; ++k)
                        down.push_back(1.5 * a.at(0, static_cast<index_t>(e) * 2 + k, i));
                }
                for (index_t k = 0; k < 2; ++k)
                    up.push_back(b.at(0, static_cast<index_t>(e) * 2 + k, static_cast<index_t>(o)));
                const double norm =
                    kernel::reference::column_norm<double>(column.data(), {down.data(), 5, 2}, up.data());
                double sum = 0;
                for (auto s = static_cast<std::size_t>(offsets[e]);
                     s < static_cast<std::size_t>(offsets[e + 1]); ++s) {
                    const std::size_t at = s * 70 + o;
                    CHECK(y[at] == Approx(m[e * 70 + o] / norm * x[at]));
                    CHECK(dinner[at] == Approx(m[e * 70 + o] / norm * d[at]));
                    sum += d[at] * x[at] / norm;
                }
                CHECK(dm[e * 70 + o] == Approx(sum));
                CHECK(dm[70 + o] == 0.0);
            }
        }
        // Added to, or not wanted.
        ctx.accumulate = true;
        std::vector<double> again(d), more(kept);
        scaling::backward<double>(ctx, groups, r, {x.data(), 5, 70}, {again.data(), 5, 70}, more.data());
        for (std::size_t i = 0; i < dm.size(); ++i) CHECK(more[i] == Approx(dm[i] + 7));
        again = d;
        scaling::backward<double>(ctx, groups, r, {x.data(), 5, 70}, {again.data(), 5, 70}, nullptr);
        CHECK(again == dinner);
        y.insert(y.end(), dinner.begin(), dinner.end());
        y.insert(y.end(), dm.begin(), dm.end());
        if (once.empty()) once = y;
        CHECK(y == once);
    }
}
