#include <mox/kernel/attention.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include <mox/core/random.hpp>
#include <mox/exec/thread_pool.hpp>

#include "../support/catch.hpp"
#include "../support/panels.hpp"

using namespace mox;
using mox_test::guarded_rows;

namespace {

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

// Everything through the full map of every head.
template <class T>
results plain(const problem<T>& p) {
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

template <class T>
void compare(const kernel::attention_shape& shape, const std::vector<lengths>& cuts, double bound) {
    CAPTURE(shape.heads, shape.kv_heads, shape.head_dim, shape.causal, cuts.size(), cuts[0].queries,
            cuts[0].keys);
    problem<T> p(shape, cuts);
    const results expected = plain(p);
    thread_pool pool(3);
    std::vector<T> serial_out;
    for (const bool with_received : {true, false}) {
        for (const executor_ref exec : {executor_ref(), executor_ref(pool)}) {
            arena scratch;
            guarded_rows<T> out(p.q.rows, p.q.cols, 5), dq(p.q.rows, p.q.cols, 6), dk(p.k.rows, p.k.cols, 7),
                dv = dk;
            std::vector<T> lse(static_cast<std::size_t>(p.q.rows * shape.heads)),
                received(static_cast<std::size_t>(p.k.rows), T(9));
            kernel::attention_forward<T>(exec, scratch, shape, p.rows(), p.q.view(), p.k.view(), p.v.view(),
                                         out.view(), lse.data(), with_received ? received.data() : nullptr);
            CHECK(difference(out, expected.out) < bound);
            CHECK(difference(lse, expected.lse) < bound);
            CHECK(out.guards_hold());
            if (with_received) CHECK(difference(received, expected.received) < bound);
            kernel::attention_backward<T>(exec, scratch, shape, p.rows(), p.q.view(), p.k.view(), p.v.view(),
                                          out.view(), lse.data(), p.dout.view(), dq.view(), dk.view(),
                                          dv.view());
            CHECK(difference(dq, expected.dq) < bound);
            CHECK(difference(dk, expected.dk) < bound);
            CHECK(difference(dv, expected.dv) < bound);
            CHECK(dq.guards_hold());
            CHECK(dk.guards_hold());
            CHECK(dv.guards_hold());
            // Bit-identical for any number of threads.
            std::vector<T> all = out.values;
            for (const auto* more : {&dq.values, &dk.values, &dv.values})
                all.insert(all.end(), more->begin(), more->end());
            if (with_received) all.insert(all.end(), received.begin(), received.end());
            if (exec.concurrency() == 1)
                serial_out = all;
            else
                CHECK(all == serial_out);
        }
    }
}

}  // namespace

TEST_CASE("attention kernel: against the full map", "[kernel][attention]") {
    for (const bool causal : {true, false}) {
        for (const index_t n : {index_t{0}, index_t{1}, index_t{2}, index_t{5}, index_t{63}, index_t{64},
                                index_t{65}, index_t{130}}) {
            compare<double>({2, 2, 5, causal, 0.4}, {{n, n}}, 1e-12);
            compare<float>({2, 1, 16, causal, 0.25}, {{n, n}}, 2e-4);
        }
    }
}

TEST_CASE("attention kernel: grouped heads, odd sizes, ragged sequences", "[kernel][attention]") {
    for (const bool causal : {true, false}) {
        compare<double>({6, 2, 3, causal, 0.6}, {{7, 7}, {0, 0}, {1, 1}, {20, 20}}, 1e-12);
        compare<double>({4, 4, 1, causal, 1.0}, {{9, 9}, {3, 3}}, 1e-12);
        compare<float>({3, 1, 33, causal, 0.17}, {{17, 17}, {1, 1}, {50, 50}}, 2e-4);
        compare<double>({2, 1, 64, causal, 0.125}, {{70, 70}}, 1e-12);
    }
}

TEST_CASE("attention kernel: more keys than queries, as in decoding", "[kernel][attention]") {
    for (const bool causal : {true, false}) {
        compare<double>({4, 2, 6, causal, 0.4}, {{1, 9}}, 1e-12);
        compare<double>({4, 2, 6, causal, 0.4}, {{1, 200}, {3, 5}, {2, 2}}, 1e-12);
        compare<double>({2, 2, 8, causal, 0.4}, {{10, 64}, {7, 9}}, 1e-12);
        compare<float>({2, 1, 20, causal, 0.2}, {{5, 131}}, 2e-4);
        compare<double>({1, 1, 4, causal, 0.5}, {{0, 5}, {4, 7}}, 1e-12);
    }
}

TEST_CASE("attention kernel: long sequences, several blocks of rows in one partial sum",
          "[kernel][attention]") {
    for (const bool causal : {true, false}) {
        compare<double>({2, 1, 3, causal, 0.5}, {{523, 523}, {30, 700}}, 1e-11);
    }
}

TEST_CASE("attention kernel: the attention received needs no map of tokens x tokens", "[kernel][attention]") {
    constexpr index_t n = 6000;
    const kernel::attention_shape shape{1, 1, 2, true, 0.7};
    problem<float> p(shape, {{n, n}});
    guarded_rows<float> out(n, 2, 5);
    std::vector<float> received(n);
    arena scratch;
    kernel::attention_forward<float>(executor_ref(), scratch, shape, p.rows(), p.q.view(), p.k.view(),
                                     p.v.view(), out.view(), nullptr, received.data());
    // The map would be 144 MB.
    CHECK(scratch.capacity() < 4'000'000);
    double sum = 0;
    for (const float r : received) sum += static_cast<double>(r);
    CHECK(sum == Approx(n).epsilon(1e-3));
}

TEST_CASE("attention kernel: large scores do not overflow", "[kernel][attention]") {
    compare<double>({1, 1, 4, true, 300.0}, {{12, 12}}, 1e-8);
}
