#pragma once

// Attention problems of any shape, and everything about them through the full map of every head in double.

#include <algorithm>
#include <cmath>
#include <vector>

#include <mox/kernel/attention.hpp>

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

// Everything through the full map of every head. dreceived: the gradient of `received`, or empty.
template <class T>
results full_map(const problem<T>& p, const std::vector<double>& dreceived = {}) {
    const index_t d = p.shape.head_dim, H = p.shape.heads, G = p.shape.kv_heads;
    results r;
    r.out.assign(static_cast<std::size_t>(p.q.rows * H * d), 0);
    r.lse.assign(static_cast<std::size_t>(p.q.rows * H), 0);
    r.received.assign(static_cast<std::size_t>(p.k.rows), 0);
    r.dq = r.out;
    r.dk.assign(static_cast<std::size_t>(p.k.rows * G * d), 0);
    r.dv = r.dk;
    for (std::size_t s = 0; s + 1 < p.query.size(); ++s) {
        const index_t nq = p.query[s + 1] - p.query[s], nk = p.key[s + 1] - p.key[s];
        for (index_t h = 0; h < H; ++h) {
            const index_t g = h / (H / G);
            for (index_t i = 0; i < nq; ++i) {
                const index_t row = p.query[s] + i;
                const index_t visible = p.shape.causal ? nk - nq + i + 1 : nk;
                std::vector<double> score, dp;
                double largest = -1e300, sum = 0, mean = 0;
                for (index_t j = 0; j < visible; ++j) {
                    double x = 0;
                    for (index_t c = 0; c < d; ++c) x += p.q(row, h * d + c) * p.k(p.key[s] + j, g * d + c);
                    score.push_back(p.shape.scale * x);
                    largest = std::max(largest, score.back());
                }
                for (double x : score) sum += std::exp(x - largest);
                const double lse = largest + std::log(sum);
                r.lse[static_cast<std::size_t>(row * H + h)] = lse;
                for (index_t j = 0; j < visible; ++j) {
                    const double weight = std::exp(score[static_cast<std::size_t>(j)] - lse);
                    r.received[static_cast<std::size_t>(p.key[s] + j)] += weight;
                    double x = 0;
                    for (index_t c = 0; c < d; ++c) {
                        const double value = p.v(p.key[s] + j, g * d + c), up = p.dout(row, h * d + c);
                        r.out[static_cast<std::size_t>(row * H * d + h * d + c)] += weight * value;
                        r.dv[static_cast<std::size_t>((p.key[s] + j) * G * d + g * d + c)] += weight * up;
                        x += up * value;
                    }
                    if (!dreceived.empty()) x += dreceived[static_cast<std::size_t>(p.key[s] + j)];
                    dp.push_back(x);
                    mean += weight * x;
                }
                for (index_t j = 0; j < visible; ++j) {
                    const double ds = std::exp(score[static_cast<std::size_t>(j)] - lse) *
                                      (dp[static_cast<std::size_t>(j)] - mean) * p.shape.scale;
                    for (index_t c = 0; c < d; ++c) {
                        r.dq[static_cast<std::size_t>(row * H * d + h * d + c)] +=
                            ds * p.k(p.key[s] + j, g * d + c);
                        r.dk[static_cast<std::size_t>((p.key[s] + j) * G * d + g * d + c)] +=
                            ds * p.q(row, h * d + c);
                    }
                }
            }
        }
    }
    return r;
}

template <class T>
double difference(const guarded_rows<T>& a, const std::vector<double>& b) {
    double worst = 0;
    for (index_t i = 0; i < a.rows; ++i) {
        for (index_t j = 0; j < a.cols; ++j) {
            const double e = b[static_cast<std::size_t>(i * a.cols + j)];
            const double x = std::abs(a(i, j) - e) / std::max(1.0, std::abs(e));
            worst = std::isnan(x) ? 1e300 : std::max(worst, x);
        }
    }
    return worst;
}

template <class T>
double difference(const std::vector<T>& a, const std::vector<double>& b) {
    double worst = 0;
    for (std::size_t i = 0; i < b.size(); ++i) {
        const double x = std::abs(static_cast<double>(a[i]) - b[i]) / std::max(1.0, std::abs(b[i]));
        worst = std::isnan(x) ? 1e300 : std::max(worst, x);
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
