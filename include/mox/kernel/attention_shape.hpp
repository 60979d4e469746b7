#pragma once

// What an attention is, and how its work is cut.

#include <algorithm>
#include <atomic>

#include <mox/core/buffer.hpp>
#include <mox/core/view.hpp>
#include <mox/exec/executor.hpp>

namespace mox::inline MOX_ABI::kernel {

/// Shape of one attention. Query head h reads key/value head h / (heads / kv_heads).
struct attention_shape {
    index_t heads = 1;
    index_t kv_heads = 1;
    index_t head_dim = 1;
    bool causal = true;
    double scale = 1;  ///< on the scores, usually 1 / sqrt(head_dim)
};

/// How the rows are cut: sequence s has query rows [query[s], query[s + 1]) and key rows [key[s], key[s +
/// 1]), at least as many. Query i of n_q sits at key n_k - n_q + i, so decoding with a cache is the same
/// call.
struct attention_rows {
    const row_t* query = nullptr;
    const row_t* key = nullptr;
    index_t sequences = 0;
};

namespace detail {

/// One sequence of an attention.
struct attention_sequence {
    index_t q0, n_q;  ///< first query row, queries
    index_t k0, n_k;  ///< first key row, keys
    bool causal;

    attention_sequence(const attention_shape& s, const attention_rows& rows, index_t seq)
        : q0(rows.query[seq]), n_q(rows.query[seq + 1] - q0), k0(rows.key[seq]), n_k(rows.key[seq + 1] - k0),
          causal(s.causal) {}

    /// Query i sees keys [0, visible(i)).
    index_t visible(index_t i) const noexcept { return causal ? n_k - n_q + i + 1 : n_k; }
    /// The first query that sees key j; n_q or more when none does.
    index_t first_query(index_t j) const noexcept {
        return causal ? std::max<index_t>(0, j - (n_k - n_q)) : 0;
    }
};

struct longest_rows {
    index_t queries = 0, keys = 0;

    longest_rows(const attention_rows& rows) {
        for (index_t s = 0; s < rows.sequences; ++s) {
            queries = std::max<index_t>(queries, rows.query[s + 1] - rows.query[s]);
            keys = std::max<index_t>(keys, rows.key[s + 1] - rows.key[s]);
        }
    }
};

/// Units of work counted through all sequences; finds the sequence of a unit. Lives in the arena.
class unit_map {
public:
    /// count(s): units of sequence s.
    template <class Count>
    unit_map(arena& scratch, index_t sequences, Count&& count)
        : first_(scratch.take<index_t>(sequences + 1)), sequences_(sequences) {
        first_[0] = 0;
        for (index_t s = 0; s < sequences; ++s) first_[s + 1] = first_[s] + count(s);
    }

    struct place {
        index_t sequence, unit;  ///< the unit's number within its sequence
    };
    place find(index_t unit) const noexcept {
        const index_t s = std::upper_bound(first_, first_ + sequences_ + 1, unit) - first_ - 1;
        return {s, unit - first_[s]};
    }
    index_t first(index_t sequence) const noexcept { return first_[sequence]; }
    index_t total() const noexcept { return first_[sequences_]; }

private:
    index_t* first_;
    index_t sequences_;
};

/// Threads that can be busy with `units` units at a time; each gets its own scratch memory.
inline index_t workers_for(executor_ref exec, index_t units) {
    return std::max<index_t>(1, std::min(units, exec.concurrency()));
}

// Runs body(unit, worker) for all units; `worker` is below workers_for and used by one thread at a time.
template <class Body>
void for_each_with_worker(executor_ref exec, index_t units, Body&& body) {
    std::atomic<index_t> next{0};
    exec.run(std::min(units, exec.concurrency()), [&](index_t worker) {
        for (index_t u = next.fetch_add(1); u < units; u = next.fetch_add(1)) body(u, worker);
    });
}

}  // namespace detail
}  // namespace mox::inline MOX_ABI::kernel
