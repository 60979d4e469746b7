#pragma once

#include <algorithm>

#include <mox/kernel/dense.hpp>
#include <mox/route/policy.hpp>

namespace mox::inline MOX_ABI::route {

/// One decision per sequence: logit_e = max over the sequence's tokens of x_t R_e, the same for each of its
/// tokens (SteloCoder, arXiv 2310.15539). The gradient of a maximum goes to its token, the first one on ties.
/// The layer's own input is scored; the paper scores the embeddings, once for the whole network. A stream
/// never holds the whole sequence: mox::decode throws mox::error.
struct sequence_max_linear {
    using policy = scorer_policy;
    static constexpr std::string_view name = "router";
    static constexpr bool per_sequence = true;

    /// One tensor: R, width x outputs. offsets: sequences + 1. best: sequences x outputs, gets the token of
    /// each maximum; sequences without tokens leave theirs unwritten.
    template <class T>
    static void forward(executor_ref exec, kernel::panel_view<const T> r, matrix_view<const T> x,
                        const row_t* offsets, index_t sequences, matrix_view<T> logits, row_t* best) {
        kernel::dense<T>(exec, r, x, logits);
        const index_t outputs = logits.cols;
        parallel_ranges(exec, sequences, 4, [&](index_t first, index_t last) {
            for (index_t s = first; s < last; ++s) {
                const index_t begin = offsets[s], end = offsets[s + 1];
                if (begin == end) continue;
                row_t* token = best + s * outputs;
                std::fill_n(token, outputs, static_cast<row_t>(begin));
                for (index_t t = begin + 1; t < end; ++t) {
                    for (index_t e = 0; e < outputs; ++e) {
                        const T l = logits(t, e), largest = logits(token[e], e);
                        // A NaN wins and stays: it must not be hidden.
                        if (l > largest || (l != l && largest == largest)) token[e] = static_cast<row_t>(t);
                    }
                }
                for (index_t e = 0; e < outputs; ++e) {
                    const T largest = logits(token[e], e);
                    for (index_t t = begin; t < end; ++t) logits(t, e) = largest;
                }
            }
        });
    }

    /// dR (+)= x' dm (unless dr is empty), dx += dm R', where dm has the sum of a sequence's dlogits at the
    /// token of the maximum and zeros elsewhere. dlogits is overwritten with dm.
    template <class T>
    static void backward(executor_ref exec, kernel::panel_view<const T> r, kernel::panel_view<T> dr,
                         matrix_view<const T> x, const row_t* offsets, index_t sequences, const row_t* best,
                         matrix_view<T> dlogits, matrix_view<T> dx, bool accumulate, bool input_gradient) {
        const index_t outputs = dlogits.cols;
        parallel_ranges(exec, sequences, 4, [&](index_t first, index_t last) {
            for (index_t s = first; s < last; ++s) {
                const index_t begin = offsets[s], end = offsets[s + 1];
                if (begin == end) continue;
                for (index_t e = 0; e < outputs; ++e) {
                    T sum = 0;
                    for (index_t t = begin; t < end; ++t) {
                        sum += dlogits(t, e);
                        dlogits(t, e) = T(0);
                    }
                    dlogits(best[s * outputs + e], e) = sum;
                }
            }
        });
        if (dr.data) kernel::dense_weight_gradient<T>(exec, x, dlogits, dr, accumulate);
        if (input_gradient) kernel::dense_transposed<T>(exec, r, dlogits, dx, true);
    }
};

}  // namespace mox::inline MOX_ABI::route
