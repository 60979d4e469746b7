#include <mox/kernel/grouped.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include <mox/exec/thread_pool.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using mox_test::guarded_rows;
using mox_test::panel_matrices;

namespace {

// Groups of tokens: group e has every token t with (t * 7 + e * 3) % 5 < share, so groups overlap and some
// are empty.
struct groups {
    std::vector<row_t> offsets{0}, tokens;
    groups(index_t count, index_t token_count) {
        for (index_t e = 0; e < count; ++e) {
            for (index_t t = 0; t < token_count; ++t) {
                if ((t * 7 + e * 3) % 5 < e % 4) tokens.push_back(static_cast<row_t>(t));
            }
            offsets.push_back(static_cast<row_t>(tokens.size()));
        }
    }
    kernel::group_view view() const { return {offsets.data(), static_cast<index_t>(offsets.size()) - 1}; }
    index_t slots() const { return static_cast<index_t>(tokens.size()); }
};

template <class T>
void check_shape(index_t tokens, index_t experts, index_t in, index_t out, executor_ref exec, double bound) {
    CAPTURE(tokens, experts, in, out);
    const groups g(experts, tokens);
    panel_matrices<T> w(experts, in, out, 1);
    guarded_rows<T> x(tokens, in, 2), dy(tokens, out, 3), slot_x(g.slots(), in, 4);
    std::vector<T> scale;
    for (index_t s = 0; s < g.slots(); ++s)
        scale.push_back(static_cast<T>(0.5 + 0.1 * static_cast<double>(s % 7)));
    const kernel::panel_stack<const T, simd::default_arch> stack{w.view()};
    const auto close = [&](double a, double b) {
        return std::abs(a - b) <= bound * std::max(1.0, std::abs(b));
    };
    bool fits = true;

    for (const bool accumulate : {false, true}) {
        {
            // Gathered tokens to slots.
            guarded_rows<T> y(g.slots(), out, 5);
            const guarded_rows<T> before = y;
            kernel::grouped_product<T>(exec, g.view(), kernel::row_source<const T>(x.view(), g.tokens.data()),
                                       stack,
                                       {kernel::row_source<T>(y.view()), out, scale.data(), accumulate});
            for (index_t e = 0; e < experts; ++e) {
                for (index_t s = g.view().begin(e); s < g.view().end(e); ++s) {
                    for (index_t n = 0; n < out; ++n) {
                        double sum = 0;
                        for (index_t k = 0; k < in; ++k)
                            sum += x(g.tokens[static_cast<std::size_t>(s)], k) * w.at(e, k, n);
                        sum *= static_cast<double>(scale[static_cast<std::size_t>(s)]);
                        fits = fits && close(y(s, n), (accumulate ? before(s, n) : 0) + sum);
                    }
                }
            }
            CHECK(fits);
            CHECK(y.guards_hold());
        }
        {
            // Slots added up at their tokens; tokens without a slot become zero.
            guarded_rows<T> y(tokens, out, 5);
            const guarded_rows<T> before = y;
            kernel::grouped_product_to_tokens<T>(
                exec, g.view(), g.tokens.data(), kernel::row_source<const T>(slot_x.view()),
                static_cast<const T*>(scale.data()), stack, y.view(), accumulate);
            for (index_t t = 0; t < tokens; ++t) {
                for (index_t n = 0; n < out; ++n) {
                    double sum = accumulate ? before(t, n) : 0;
                    for (index_t e = 0; e < experts; ++e) {
                        for (index_t s = g.view().begin(e); s < g.view().end(e); ++s) {
                            if (g.tokens[static_cast<std::size_t>(s)] != t) continue;
                            for (index_t k = 0; k < in; ++k) {
                                sum += static_cast<double>(scale[static_cast<std::size_t>(s)]) *
                                       slot_x(s, k) * w.at(e, k, n);
                            }
                        }
                    }
                    fits = fits && close(y(t, n), sum);
                }
            }
            CHECK(fits);
            CHECK(y.guards_hold());
        }
        {
            // Transposed: gathered tokens to slots, then slots to tokens.
            guarded_rows<T> d(g.slots(), in, 6);
            const guarded_rows<T> before = d;
            kernel::grouped_transposed<T>(exec, g.view(),
                                          kernel::row_source<const T>(dy.view(), g.tokens.data()), out, stack,
                                          {kernel::row_source<T>(d.view()), in, nullptr, accumulate});
            guarded_rows<T> dx(tokens, in, 7), slot_dy(g.slots(), out, 8);
            const guarded_rows<T> dx_before = dx;
            kernel::grouped_transposed_to_tokens<T>(exec, g.view(), g.tokens.data(),
                                                    kernel::row_source<const T>(slot_dy.view()), out, stack,
                                                    dx.view(), accumulate);
            std::vector<double> expected(static_cast<std::size_t>(tokens * in), 0);
            for (index_t e = 0; e < experts; ++e) {
                for (index_t s = g.view().begin(e); s < g.view().end(e); ++s) {
                    const row_t t = g.tokens[static_cast<std::size_t>(s)];
                    for (index_t k = 0; k < in; ++k) {
                        double sum = accumulate ? before(s, k) : 0, other = 0;
                        for (index_t n = 0; n < out; ++n) {
                            sum += dy(t, n) * w.at(e, k, n);
                            other += slot_dy(s, n) * w.at(e, k, n);
                        }
                        fits = fits && close(d(s, k), sum);
                        expected[static_cast<std::size_t>(t * in + k)] += other;
                    }
                }
            }
            for (index_t t = 0; t < tokens; ++t) {
                for (index_t k = 0; k < in; ++k) {
                    fits = fits && close(dx(t, k), expected[static_cast<std::size_t>(t * in + k)] +
                                                       (accumulate ? dx_before(t, k) : 0));
                }
            }
            CHECK(fits);
            CHECK(d.guards_hold());
            CHECK(dx.guards_hold());
        }
        {
            panel_matrices<T> dw(experts, in, out, 9);
            const std::vector<double> before = dw.plain;
            kernel::grouped_weight_gradient<T>(exec, g.view(), kernel::row_source<const T>(slot_x.view()),
                                               kernel::row_source<const T>(dy.view(), g.tokens.data()), out,
                                               kernel::panel_stack<T, simd::default_arch>{dw.view()},
                                               accumulate);
            for (index_t e = 0; e < experts; ++e) {
                for (index_t k = 0; k < in; ++k) {
                    for (index_t n = 0; n < dw.padded; ++n) {
                        double sum = 0;
                        if (n < out) {
                            if (accumulate) sum = before[static_cast<std::size_t>((e * in + k) * out + n)];
                            for (index_t s = g.view().begin(e); s < g.view().end(e); ++s) {
                                sum += slot_x(s, k) * dy(g.tokens[static_cast<std::size_t>(s)], n);
                            }
                            // A group without slots: exactly zero.
                            if (g.view().begin(e) == g.view().end(e) && !accumulate)
                                fits = fits && dw.view(e)(k, n) == T(0);
                        } else {
                            // Unused columns of the last panel stay zero.
                            fits = fits && dw.view(e)(k, n) == T(0);
                        }
                        fits = fits && close(static_cast<double>(dw.view(e)(k, n)), sum);
                    }
                }
            }
            CHECK(fits);
        }
    }
}

}  // namespace

TEST_CASE("grouped products against plain loops", "[kernel][grouped]") {
    thread_pool pool(3);
    for (const executor_ref exec : {executor_ref(), executor_ref(pool)}) {
        for (const index_t tokens : {index_t{0}, index_t{1}, index_t{7}, index_t{23}}) {
            for (const index_t in : {index_t{1}, index_t{5}, index_t{16}, index_t{67}}) {
                for (const index_t out : {index_t{1}, index_t{9}, index_t{64}, index_t{70}}) {
                    check_shape<double>(tokens, 5, in, out, exec, 1e-12);
                    check_shape<float>(tokens, 5, in, out, exec, 1e-4);
                }
            }
        }
        // More rows than one unit of work and than one block of a weight gradient.
        check_shape<float>(500, 4, 9, 33, exec, 5e-4);
        check_shape<double>(500, 3, 33, 7, exec, 1e-12);
    }
}

TEST_CASE("grouped products do not depend on the number of threads", "[kernel][grouped]") {
    constexpr index_t tokens = 700, experts = 6, in = 37, out = 150;
    const groups g(experts, tokens);
    panel_matrices<float> w(experts, in, out, 1), one(experts, in, out, 2), three(experts, in, out, 2);
    guarded_rows<float> slot_x(g.slots(), in, 3), dy(tokens, out, 4);
    guarded_rows<float> ya(tokens, out, 5), yb = ya, da(tokens, in, 6), db = da, slot_dy(g.slots(), out, 7);
    const kernel::panel_stack<const float, simd::default_arch> stack{w.view()};
    thread_pool pool(3);
    const auto run = [&](executor_ref exec, guarded_rows<float>& y, guarded_rows<float>& d,
                         panel_matrices<float>& dw) {
        kernel::grouped_product_to_tokens<float>(exec, g.view(), g.tokens.data(),
                                                 kernel::row_source<const float>(slot_x.view()),
                                                 static_cast<const float*>(nullptr), stack, y.view(), false);
        kernel::grouped_transposed_to_tokens<float>(exec, g.view(), g.tokens.data(),
                                                    kernel::row_source<const float>(slot_dy.view()), out,
                                                    stack, d.view(), true);
        kernel::grouped_weight_gradient<float>(exec, g.view(), kernel::row_source<const float>(slot_x.view()),
                                               kernel::row_source<const float>(dy.view(), g.tokens.data()),
                                               out, kernel::panel_stack<float, simd::default_arch>{dw.view()},
                                               true);
    };
    run(executor_ref(), ya, da, one);
    run(pool, yb, db, three);
    CHECK(ya.values == yb.values);
    CHECK(da.values == db.values);
    CHECK(std::equal(one.memory.data(), one.memory.data() + one.memory.size(), three.memory.data()));
}

TEST_CASE("grouped: sums into rows that come from memory have the same bits", "[kernel][grouped]") {
    // Few steps and many rows: they are asked for, and cut into blocks that stay near from group to group.
    // One group at a time they are not cut.
    const index_t experts = 5, in = 8, out = 1040, tokens = simd::last_level_cache() / 8 / (4 * out) + 70;
    const groups g(experts, tokens);
    panel_matrices<float> w(experts, in, out, 1);
    const kernel::panel_stack<const float, simd::default_arch> stack{w.view()};
    guarded_rows<float> slot_x(g.slots(), in, 4), once(tokens, out, 5), cut = once, threads = once;
    REQUIRE(kernel::asks_ahead(once.view()));
    const auto add = [&](executor_ref exec, kernel::group_view view, auto matrices, guarded_rows<float>& y) {
        kernel::grouped_product_to_tokens<float>(
            exec, view, g.tokens.data(), kernel::row_source<const float>(slot_x.view()),
            static_cast<const float*>(nullptr), matrices, y.view(), true);
    };
    for (index_t e = 0; e < experts; ++e) {
        add({}, {g.offsets.data() + e, 1}, kernel::panel_stack<const float, simd::default_arch>{stack[e]},
            once);
    }
    add({}, g.view(), stack, cut);
    thread_pool pool(3);
    add(pool, g.view(), stack, threads);
    CHECK(cut.values == once.values);
    CHECK(threads.values == once.values);
}

TEST_CASE("grouped: units cover every slot and every piece once", "[kernel][grouped]") {
    const std::vector<row_t> offsets{0, 0, 1, 700, 700, 893};
    const kernel::group_view g{offsets.data(), 5};
    thread_pool pool(3);
    for (const executor_ref exec : {executor_ref(), executor_ref(pool)}) {
        constexpr index_t width = 10;
        std::vector<int> seen(893 * width, 0);
        kernel::for_each_unit(exec, g, width,
                              [&](index_t e, index_t begin, index_t end, index_t piece, index_t pieces) {
                                  const kernel::piece_range p(width, piece, pieces);
                                  const bool inside = g.begin(e) <= begin && end <= g.end(e) && begin < end;
                                  for (index_t s = begin; inside && s < end; ++s) {
                                      for (index_t j = p.begin; j < p.end; ++j)
                                          ++seen[static_cast<std::size_t>(s * width + j)];
                                  }
                              });
        CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
    }
}
