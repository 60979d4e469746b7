#pragma once

// Attention problems of any shape, and everything about them by the plain twins in double.

#include <algorithm>
#include <cmath>
#include <vector>

#include <mox/kernel/attention.hpp>
#include <mox/kernel/reference/attention.hpp>

#include "catch.hpp"
#include "panels.hpp"

namespace mox_test {

using mox::index_t;
using mox::row_t;
namespace kernel = mox::kernel;

struct lengths {
    index_t queries, keys;
};

template <class T>
struct problem {
    kernel::attention_shape shape;
    std::vector<row_t> query{0}, key{0};
    guarded_rows<T> q, k, v, dout;

    problem(const kernel::attention_shape& s, const std::vector<lengths>& cuts)
        : shape(s), q(total(cuts, true), s.heads * s.head_dim, 1),
          k(total(cuts, false), s.kv_heads * s.head_dim, 2), v(k.rows, k.cols, 3), dout(q.rows, q.cols, 4) {
        for (const auto& c : cuts) {
            query.push_back(static_cast<row_t>(query.back() + c.queries));
            key.push_back(static_cast<row_t>(key.back() + c.keys));
        }
    }
    static index_t total(const std::vector<lengths>& cuts, bool queries) {
        index_t n = 0;
        for (const auto& c : cuts) n += queries ? c.queries : c.keys;
        return n;
    }
    kernel::attention_rows rows() const {
        return {query.data(), key.data(), static_cast<index_t>(query.size()) - 1};
    }
};

struct results {
    std::vector<double> out, lse, received, dq, dk, dv;
};

// Everything through the full map of every head, by the plain twins. dreceived: the gradient of `received`,
// or empty.
template <class T>
results full_map(const problem<T>& p, const std::vector<double>& dreceived = {}) {
    namespace plain = kernel::reference;
    using matrix = mox::matrix_view<double>;
    const kernel::attention_shape& s = p.shape;
    const index_t width = s.heads * s.head_dim, kv_width = s.kv_heads * s.head_dim;
    guarded_rows<double> q(p.q), k(p.k), v(p.v), dout(p.dout);
    results r;
    r.out.resize(static_cast<std::size_t>(p.q.rows * width));
    r.lse.resize(static_cast<std::size_t>(p.q.rows * s.heads));
    r.received.resize(static_cast<std::size_t>(p.k.rows));
    r.dq = r.out;
    r.dk.resize(static_cast<std::size_t>(p.k.rows * kv_width));
    r.dv = r.dk;
    for (std::size_t i = 0; i + 1 < p.query.size(); ++i) {
        const index_t q0 = p.query[i], nq = p.query[i + 1] - q0, k0 = p.key[i], nk = p.key[i + 1] - k0;
        const auto queries = [&](matrix m) { return m.middle_rows(q0, nq); };
        const auto keys = [&](matrix m) { return m.middle_rows(k0, nk); };
        plain::attention<double>(s.heads, s.kv_heads, s.head_dim, s.causal, s.scale, queries(q.view()),
                                 keys(k.view()), keys(v.view()), queries({r.out.data(), p.q.rows, width}),
                                 r.received.data() + k0, r.lse.data() + q0 * s.heads);
        plain::attention_backward<double>(
            s.heads, s.kv_heads, s.head_dim, s.causal, s.scale, queries(q.view()), keys(k.view()),
            keys(v.view()), queries(dout.view()), dreceived.empty() ? nullptr : dreceived.data() + k0,
            queries({r.dq.data(), p.q.rows, width}), keys({r.dk.data(), p.k.rows, kv_width}),
            keys({r.dv.data(), p.k.rows, kv_width}));
    }
    return r;
}

template <class T>
double difference(const guarded_rows<T>& a, const std::vector<double>& b) {
    double worst = 0;
    for (index_t i = 0; i < a.rows; ++i) {
        for (index_t j = 0; j < a.cols; ++j)
            worst = std::max(worst, difference(a(i, j), b[static_cast<std::size_t>(i * a.cols + j)]));
    }
    return worst;
}

/// What the kernels make of a problem.
template <class T>
struct solution {
    guarded_rows<T> out, dq, dk, dv;
    std::vector<T> lse, received;
    std::size_t memory = 0;  ///< scratch, in bytes

    solution(problem<T>& p, mox::executor_ref exec, bool with_received, bool with_backward = true,
             const std::vector<T>& dreceived = {})
        : out(p.q.rows, p.q.cols, 5), dq(p.q.rows, p.q.cols, 6), dk(p.k.rows, p.k.cols, 7), dv(dk),
          lse(static_cast<std::size_t>(p.q.rows * p.shape.heads)),
          received(static_cast<std::size_t>(p.k.rows), T(9)) {
        mox::arena scratch;
        kernel::attention_forward<T>(exec, scratch, p.shape, p.rows(), p.q.view(), p.k.view(), p.v.view(),
                                     out.view(), lse.data(), with_received ? received.data() : nullptr);
        if (with_backward) {
            kernel::attention_backward<T>(exec, scratch, p.shape, p.rows(), p.q.view(), p.k.view(),
                                          p.v.view(), out.view(), lse.data(), p.dout.view(), dq.view(),
                                          dk.view(), dv.view(),
                                          dreceived.empty() ? nullptr : dreceived.data());
        }
        memory = scratch.capacity();
    }
    /// All numbers, to compare bits.
    std::vector<T> all() const {
        std::vector<T> numbers = out.values;
        for (const auto* more : {&dq.values, &dk.values, &dv.values, &lse, &received})
            numbers.insert(numbers.end(), more->begin(), more->end());
        return numbers;
    }
    bool guards_hold() const {
        return out.guards_hold() && dq.guards_hold() && dk.guards_hold() && dv.guards_hold();
    }
};

}  // namespace mox_test
