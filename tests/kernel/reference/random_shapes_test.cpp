// The fast kernels against their plain twins, on shapes drawn at random.

#include <vector>

#include <mox/core/random.hpp>
#include <mox/kernel/attention.hpp>
#include <mox/kernel/dense.hpp>
#include <mox/kernel/norm.hpp>
#include <mox/kernel/reference/attention.hpp>
#include <mox/kernel/reference/gemm.hpp>
#include <mox/kernel/reference/rows.hpp>
#include <mox/kernel/softmax.hpp>
#include <mox/kernel/topk.hpp>

#include "../../support/catch.hpp"

namespace {

using mox::index_t;
using mox::row_t;

struct numbers {
    mox::random_stream stream{42, 0};
    std::uint64_t next = 0;

    index_t between(index_t low, index_t high) {
        return low + static_cast<index_t>(stream.bits(next++)) % (high - low + 1);
    }
    mox::buffer<double> normal(index_t size) {
        mox::buffer<double> b(size);
        for (index_t i = 0; i < size; ++i) b[i] = stream.normal(next++);
        return b;
    }
};

mox::matrix_view<double> view(mox::buffer<double>& b, index_t rows, index_t cols) {
    return {b.data(), rows, cols};
}

double difference(const mox::buffer<double>& a, const mox::buffer<double>& b) {
    double worst = 0;
    for (index_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
    return worst;
}

// Row-major weights into panels.
mox::buffer<double> packed(const double* w, index_t k, index_t n) {
    using layout = mox::kernel::panel_layout<double>;
    mox::buffer<double> p(k * layout::padded(n));
    for (index_t i = 0; i < k; ++i) {
        for (index_t j = 0; j < n; ++j) p[layout::offset(k, layout::padded(n), i, j)] = w[i * n + j];
    }
    return p;
}

}  // namespace

TEST_CASE("grouped product equals its plain twin") {
    numbers r;
    for (int round = 0; round < 20; ++round) {
        const index_t tokens = r.between(1, 40), k = r.between(1, 70), n = r.between(1, 90);
        const index_t experts = r.between(1, 5);
        std::vector<row_t> offsets{0}, token;
        for (index_t e = 0; e < experts; ++e) {
            for (index_t t = 0; t < tokens; ++t) {
                if (r.between(0, 2) == 0) token.push_back(static_cast<row_t>(t));
            }
            offsets.push_back(static_cast<row_t>(token.size()));
        }
        const auto slots = static_cast<index_t>(token.size());
        auto x = r.normal(slots * k), w = r.normal(experts * k * n), gate = r.normal(slots);
        mox::buffer<double> y(tokens * n), by_slot(slots * n), expected(tokens * n);
        using layout = mox::kernel::panel_layout<double>;
        mox::buffer<double> panels(experts * k * layout::padded(n));
        for (index_t e = 0; e < experts; ++e) {
            const auto p = packed(w.data() + e * k * n, k, n);
            std::copy_n(p.data(), p.size(), panels.data() + e * p.size());
        }
        mox::kernel::grouped_product_to_tokens<double>(
            {}, {offsets.data(), experts}, token.data(), {x.data(), k}, gate.data(),
            mox::kernel::panel_stack<const double>{{panels.data(), k, layout::padded(n)}}, view(y, tokens, n),
            false);
        mox::kernel::reference::grouped_product<double>(view(x, slots, k), nullptr, offsets.data(), experts,
                                                        w.data(), gate.data(), view(by_slot, slots, n),
                                                        false);
        mox::kernel::reference::add_to_tokens<double>(view(by_slot, slots, n), token.data(),
                                                      view(expected, tokens, n));
        REQUIRE(difference(y, expected) < 1e-11);
    }
}

TEST_CASE("dense product, its transpose and its weight gradient equal their plain twins") {
    numbers r;
    for (int round = 0; round < 20; ++round) {
        const index_t t = r.between(0, 40), k = r.between(1, 70), n = r.between(1, 150);
        auto x = r.normal(t * k), w = r.normal(k * n), dy = r.normal(t * n);
        auto panels = packed(w.data(), k, n);
        const mox::kernel::panel_view<double> weights(panels.data(), k,
                                                      mox::kernel::panel_layout<double>::padded(n));
        mox::buffer<double> y(t * n), expected(t * n), dx(t * k), expected_dx(t * k), expected_dw(k * n);
        auto dw = packed(w.data(), k, n);
        mox::kernel::dense<double>({}, weights, view(x, t, k), view(y, t, n));
        mox::kernel::reference::product<double>(view(x, t, k), nullptr, view(w, k, n), nullptr,
                                                view(expected, t, n), false);
        REQUIRE(difference(y, expected) < 1e-11);
        mox::kernel::dense_transposed<double>({}, weights, view(dy, t, n), view(dx, t, k), false);
        mox::kernel::reference::product_transposed<double>(view(dy, t, n), nullptr, view(w, k, n),
                                                           view(expected_dx, t, k), false);
        REQUIRE(difference(dx, expected_dx) < 1e-11);
        mox::kernel::dense_weight_gradient<double>(
            {}, view(x, t, k), view(dy, t, n), mox::kernel::panel_view<double>(dw.data(), k, weights.cols),
            false);
        mox::kernel::reference::weight_gradient<double>(view(x, t, k), nullptr, view(dy, t, n),
                                                        view(expected_dw, k, n), false);
        REQUIRE(difference(dw, packed(expected_dw.data(), k, n)) < 1e-11);
    }
}

TEST_CASE("rows equal their plain twins") {
    numbers r;
    for (int round = 0; round < 50; ++round) {
        const index_t n = r.between(1, 140), k = r.between(1, n);
        auto x = r.normal(n), gain = r.normal(n), shift = r.normal(n);
        // Coarse values, so that there are ties.
        for (index_t i = 0; i < n; i += 2) x[i] = std::round(x[i]);
        mox::buffer<double> y(n), expected(n);
        REQUIRE(
            mox::kernel::softmax_row<double>(x.data(), n, y.data()) ==
            Approx(mox::kernel::reference::softmax_row<double>(x.data(), n, expected.data())).epsilon(1e-12));
        REQUIRE(difference(y, expected) < 1e-14);
        std::vector<row_t> chosen(static_cast<std::size_t>(k)), twin(chosen);
        mox::kernel::top_k_row<double>(x.data(), n, k, chosen.data());
        mox::kernel::reference::top_k_row<double>(x.data(), n, k, twin.data());
        REQUIRE(chosen == twin);
        double statistics[2];
        mox::kernel::rms_norm<double>({}, view(x, 1, n), gain.data(), 1e-6, view(y, 1, n), statistics);
        mox::kernel::reference::rms_norm_row<double>(x.data(), gain.data(), n, 1e-6, expected.data());
        REQUIRE(difference(y, expected) < 1e-12);
        mox::kernel::layer_norm<double>({}, view(x, 1, n), gain.data(), shift.data(), 1e-5, view(y, 1, n),
                                        statistics);
        mox::kernel::reference::layer_norm_row<double>(x.data(), gain.data(), shift.data(), n, 1e-5,
                                                       expected.data());
        REQUIRE(difference(y, expected) < 1e-11);
    }
}

TEST_CASE("attention equals its plain twin with the whole map") {
    numbers r;
    mox::arena scratch;
    for (int round = 0; round < 20; ++round) {
        const index_t kv_heads = r.between(1, 2), heads = kv_heads * r.between(1, 3), d = r.between(1, 20);
        const index_t n_k = r.between(1, 140), n_q = r.between(1, n_k);
        const bool causal = r.between(0, 1) == 1;
        auto q = r.normal(n_q * heads * d), k = r.normal(n_k * kv_heads * d),
             v = r.normal(n_k * kv_heads * d);
        mox::buffer<double> out(n_q * heads * d), expected(n_q * heads * d), received(n_k),
            expected_received(n_k);
        const row_t queries[] = {0, static_cast<row_t>(n_q)}, keys[] = {0, static_cast<row_t>(n_k)};
        mox::kernel::attention_forward<double>({}, scratch, {heads, kv_heads, d, causal, 0.3},
                                               {queries, keys, 1}, view(q, n_q, heads * d),
                                               view(k, n_k, kv_heads * d), view(v, n_k, kv_heads * d),
                                               view(out, n_q, heads * d), nullptr, received.data());
        mox::kernel::reference::attention<double>(heads, kv_heads, d, causal, 0.3, view(q, n_q, heads * d),
                                                  view(k, n_k, kv_heads * d), view(v, n_k, kv_heads * d),
                                                  view(expected, n_q, heads * d), expected_received.data());
        REQUIRE(difference(out, expected) < 1e-12);
        REQUIRE(difference(received, expected_received) < 1e-11);
    }
}
