#include <mox/kernel/grouped.hpp>

#include <algorithm>
#include <vector>

#include <mox/exec/thread_pool.hpp>
#include <mox/kernel/reference/gemm.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using mox_test::difference;
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
    using in_double = guarded_rows<double>;
    namespace plain = kernel::reference;
    const groups g(experts, tokens);
    const row_t *const offsets = g.offsets.data(), *const token = g.tokens.data();
    panel_matrices<T> w(experts, in, out, 1);
    guarded_rows<T> x(tokens, in, 2), dy(tokens, out, 3), slot_x(g.slots(), in, 4),
        slot_dy(g.slots(), out, 8);
    in_double x2(x), dy2(dy), slot_x2(slot_x), slot_dy2(slot_dy);
    std::vector<T> scale;
    for (index_t s = 0; s < g.slots(); ++s)
        scale.push_back(static_cast<T>(0.5 + 0.1 * static_cast<double>(s % 7)));
    const std::vector<double> scale2(scale.begin(), scale.end());
    const kernel::panel_stack<const T, simd::default_arch> stack{w.view()};
    const auto check = [&](const guarded_rows<T>& values, const in_double& expected) {
        CHECK(difference(values, expected) <= bound);
        CHECK(values.guards_hold());
    };

    for (const bool accumulate : {false, true}) {
        const double kept = accumulate ? 1 : 0;
        {
            // Gathered tokens to slots.
            guarded_rows<T> y(g.slots(), out, 5), d(g.slots(), in, 6);
            in_double y2(y), d2(d);
            kernel::grouped_product<T>(exec, g.view(), kernel::row_source<const T>(x.view(), token), stack,
                                       {kernel::row_source<T>(y.view()), out, scale.data(), accumulate});
            plain::grouped_product<double>(x2.view(), token, offsets, experts, w.plain.data(), scale2.data(),
                                           y2.view(), accumulate);
            check(y, y2);
            kernel::grouped_transposed<T>(exec, g.view(), kernel::row_source<const T>(dy.view(), token), out,
                                          stack, {kernel::row_source<T>(d.view()), in, nullptr, accumulate});
            plain::grouped_transposed<double>(dy2.view(), token, offsets, experts, w.plain.data(), d2.view(),
                                              accumulate);
            check(d, d2);
        }
        {
            // Slots added up at their tokens; tokens without a slot become zero.
            guarded_rows<T> y(tokens, out, 5), dx(tokens, in, 7);
            in_double y2(guarded_rows<T>(tokens, out, 5, kept)), dx2(guarded_rows<T>(tokens, in, 7, kept));
            in_double slot_y(g.slots(), out, 9), slot_dx(g.slots(), in, 9);
            kernel::grouped_product_to_tokens<T>(
                exec, g.view(), token, kernel::row_source<const T>(slot_x.view()),
                static_cast<const T*>(scale.data()), stack, y.view(), accumulate);
            plain::grouped_product<double>(slot_x2.view(), nullptr, offsets, experts, w.plain.data(),
                                           scale2.data(), slot_y.view(), false);
            plain::add_to_tokens<double>(slot_y.view(), token, y2.view());
            check(y, y2);
            kernel::grouped_transposed_to_tokens<T>(exec, g.view(), token,
                                                    kernel::row_source<const T>(slot_dy.view()), out, stack,
                                                    dx.view(), accumulate);
            plain::grouped_transposed<double>(slot_dy2.view(), nullptr, offsets, experts, w.plain.data(),
                                              slot_dx.view(), false);
            plain::add_to_tokens<double>(slot_dx.view(), token, dx2.view());
            check(dx, dx2);
        }
        panel_matrices<T> dw(experts, in, out, 9);
        std::vector<double> dw2(dw.plain);
        for (double& v : dw2) v *= kept;
        kernel::grouped_weight_gradient<T>(exec, g.view(), kernel::row_source<const T>(slot_x.view()),
                                           kernel::row_source<const T>(dy.view(), token), out,
                                           kernel::panel_stack<T, simd::default_arch>{dw.view()}, accumulate);
        bool fits = true;
        for (index_t e = 0; e < experts; ++e) {
            const matrix_view<double> expected(dw2.data() + e * in * out, in, out);
            for (index_t s = offsets[e]; s < offsets[e + 1]; ++s) {
                plain::weight_gradient<double>(slot_x2.view().middle_rows(s, 1), nullptr,
                                               dy2.view().middle_rows(token[s], 1), expected, true);
            }
            for (index_t k = 0; k < in; ++k) {
                for (index_t n = 0; n < dw.padded; ++n) {
                    // Exactly zero: a group without slots, and unused columns of the last panel.
                    const double value = static_cast<double>(dw.view(e)(k, n)),
                                 sum = n < out ? expected(k, n) : 0;
                    fits = fits && difference(value, sum) <= (sum == 0 ? 0 : bound);
                }
            }
        }
        CHECK(fits);
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
    // All groups at once, each by itself, and on three threads: with so few steps that panels pass, and with
    // more, where the lines to write are asked for.
    const index_t experts = 5, out = 1040, tokens = kernel::near_bytes() / (4 * out) + 70;
    for (const index_t in : {index_t{8}, kernel::detail::short_sum + 6}) {
        CAPTURE(in);
        const groups g(experts, tokens);
        panel_matrices<float> w(experts, in, out, 1);
        const kernel::panel_stack<const float, simd::default_arch> stack{w.view()};
        guarded_rows<float> slot_x(g.slots(), in, 4), once(tokens, out, 5), cut = once, threads = once;
        REQUIRE(kernel::asks_ahead(once.view()));
        REQUIRE(kernel::detail::passes_panels(stack.first) == (in == 8));
        const auto add = [&](executor_ref exec, kernel::group_view view, auto matrices,
                             guarded_rows<float>& y) {
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
