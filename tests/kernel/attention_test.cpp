#include <mox/kernel/attention.hpp>

#include <vector>

#include <mox/exec/thread_pool.hpp>

#include "../support/attention.hpp"

using namespace mox;
using namespace mox_test;

namespace {

template <class T>
void compare(const kernel::attention_shape& shape, const std::vector<lengths>& cuts, double bound) {
    CAPTURE(shape.heads, shape.kv_heads, shape.head_dim, shape.causal, cuts.size(), cuts[0].queries,
            cuts[0].keys);
    problem<T> p(shape, cuts);
    const results expected = full_map(p);
    thread_pool pool(3);
    for (const bool with_received : {true, false}) {
        std::vector<T> serial;
        for (const executor_ref exec : {executor_ref(), executor_ref(pool)}) {
            const solution<T> found(p, exec, with_received);
            CHECK(difference(found.out, expected.out) < bound);
            CHECK(difference(found.lse, expected.lse) < bound);
            if (with_received) CHECK(difference(found.received, expected.received) < bound);
            CHECK(difference(found.dq, expected.dq) < bound);
            CHECK(difference(found.dk, expected.dk) < bound);
            CHECK(difference(found.dv, expected.dv) < bound);
            CHECK(found.guards_hold());
            // Bit-identical for any number of threads.
            if (exec.concurrency() == 1)
                serial = found.all();
            else
                CHECK(found.all() == serial);
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

TEST_CASE("attention kernel: long sequences, several blocks of keys and rows", "[kernel][attention]") {
    for (const bool causal : {true, false}) {
        compare<double>({2, 1, 3, causal, 0.5}, {{523, 523}, {30, 700}}, 1e-11);
        compare<double>({1, 1, 8, causal, 0.3}, {{700, 700}}, 1e-11);
        compare<float>({2, 2, 24, causal, 0.2}, {{300, 300}, {600, 600}}, 5e-4);
    }
}

TEST_CASE("attention kernel: large scores do not overflow", "[kernel][attention]") {
    compare<double>({1, 1, 4, true, 300.0}, {{12, 12}}, 1e-8);
    compare<double>({1, 1, 4, true, 300.0}, {{400, 400}}, 1e-8);
}
