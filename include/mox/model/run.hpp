#pragma once

// Running a network: forward for training, backward, infer for evaluation.

#include <mox/model/params.hpp>
#include <mox/model/tape.hpp>
#include <mox/model/trainable_mask.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

template <class Net, class Input>
index_t check_input(std::string_view call, const Input& x) {
    if constexpr (takes_ids<Net>()) {
        return static_cast<index_t>(x.size());
    } else {
        check::size(call, "x", "columns (the width of the network's input)", Net::in, x.cols);
        return x.rows;
    }
}

template <class Net, class T>
void check_complete(std::string_view call, const params<Net, T>& weights) {
    check::that(
        weights.complete(), call,
        "argument 'weights' must hold the frozen tensors too, but they were never written; start from "
        "initial values, or copy them with mox::copy_matching");
}

template <class Net, class T, class Input>
matrix_view<T> run(std::string_view call, const params<Net, T>& weights, const Input& x,
                   const sequence_view& rows, tape<Net, T>& t, phase mode, bool saving) {
    const index_t n = check_input<Net>(call, x);
    check::size(call, "batch", "rows, like x", n, rows.rows());
    check_complete(call, weights);
    context<T> ctx = t.begin(rows, mode, saving);
    const matrix_view<T> y = ctx.activation(n, Net::out);
    Net::template forward<T>(ctx, weights.ref(), x, y);
    return t.finish(ctx, y, saving);
}

}  // namespace detail

/// Training forward: y = Net(x), everything backward needs stays on the tape. x: token ids, or rows of width
/// Net::in (mox view, std::span of ids, row-major Eigen matrix); it must stay alive until backward. Without a
/// batch the rows are one sequence. The result lives on the tape until the next step.
template <class Net, class T>
matrix_view<const T> forward(const params<Net, T>& weights, std::type_identity_t<input_of<Net, T>> x,
                             const batch& sequences, tape<Net, T>& t) {
    return detail::run<Net, T>("mox::forward", weights, x, sequences.view(), t, phase::train, true);
}

template <class Net, class T>
matrix_view<const T> forward(const params<Net, T>& weights, std::type_identity_t<input_of<Net, T>> x,
                             tape<Net, T>& t) {
    t.whole().assign_equal(1, detail::check_input<Net>("mox::forward", x));
    return detail::run<Net, T>("mox::forward", weights, x, t.whole().view(), t, phase::train, true);
}

/// Evaluation: nothing is kept for backward, routers use their causal rules, no auxiliary losses.
template <class Net, class T>
matrix_view<const T> infer(const params<Net, T>& weights, std::type_identity_t<input_of<Net, T>> x,
                           const batch& sequences, tape<Net, T>& t) {
    return detail::run<Net, T>("mox::infer", weights, x, sequences.view(), t, phase::evaluate, false);
}

template <class Net, class T>
matrix_view<const T> infer(const params<Net, T>& weights, std::type_identity_t<input_of<Net, T>> x,
                           tape<Net, T>& t) {
    t.whole().assign_equal(1, detail::check_input<Net>("mox::infer", x));
    return detail::run<Net, T>("mox::infer", weights, x, t.whole().view(), t, phase::evaluate, false);
}

/// Gradients of the loss whose gradient by the output stands in tape.output_grad(), plus those of the
/// auxiliary losses. Overwrites `grads`.
template <class Net, class T>
void backward(const params<Net, T>& weights, tape<Net, T>& t, params<Net, T>& grads) {
    context<T> ctx = t.resume();
    ctx.input_gradient = false;
    Net::template backward<T>(ctx, weights.ref(), grads.ref(), t.output_grad(), matrix_view<T>{});
}

/// The same with the gradient of the input, rows x Net::in, for networks that read a matrix.
template <class Net, class T>
void backward(const params<Net, T>& weights, tape<Net, T>& t, params<Net, T>& grads,
              std::type_identity_t<matrix_view<T>> dx) {
    static_assert(!detail::takes_ids<Net>(), "mox::backward: token ids have no gradient; leave out dx");
    check::size("mox::backward", "dx", "rows, like the output", t.output_grad().rows, dx.rows);
    check::size("mox::backward", "dx", "columns (the width of the network's input)", Net::in, dx.cols);
    context<T> ctx = t.resume();
    Net::template backward<T>(ctx, weights.ref(), grads.ref(), t.output_grad(), dx);
}

/// Gradients are added to `grads`: several batches, one step.
template <class Net, class T>
void backward_accumulate(const params<Net, T>& weights, tape<Net, T>& t, params<Net, T>& grads) {
    context<T> ctx = t.resume();
    ctx.input_gradient = false;
    ctx.accumulate = true;
    Net::template backward<T>(ctx, weights.ref(), grads.ref(), t.output_grad(), matrix_view<T>{});
}

/// The three above, without the gradients of the blocks that `mask` does not train: those are not computed
/// and keep their values in `grads`. Other gradients are the same, bit for bit.
template <class Net, class T>
void backward(const params<Net, T>& weights, tape<Net, T>& t, params<Net, T>& grads,
              const trainable_mask<Net, T>& mask) {
    context<T> ctx = t.resume();
    ctx.input_gradient = false;
    ctx.blocks = {grads.flat().data(), mask.ranges()};
    Net::template backward<T>(ctx, weights.ref(), grads.ref(), t.output_grad(), matrix_view<T>{});
}

template <class Net, class T>
void backward(const params<Net, T>& weights, tape<Net, T>& t, params<Net, T>& grads,
              const trainable_mask<Net, T>& mask, std::type_identity_t<matrix_view<T>> dx) {
    static_assert(!detail::takes_ids<Net>(), "mox::backward: token ids have no gradient; leave out dx");
    check::size("mox::backward", "dx", "rows, like the output", t.output_grad().rows, dx.rows);
    check::size("mox::backward", "dx", "columns (the width of the network's input)", Net::in, dx.cols);
    context<T> ctx = t.resume();
    ctx.blocks = {grads.flat().data(), mask.ranges()};
    Net::template backward<T>(ctx, weights.ref(), grads.ref(), t.output_grad(), dx);
}

template <class Net, class T>
void backward_accumulate(const params<Net, T>& weights, tape<Net, T>& t, params<Net, T>& grads,
                         const trainable_mask<Net, T>& mask) {
    context<T> ctx = t.resume();
    ctx.input_gradient = false;
    ctx.accumulate = true;
    ctx.blocks = {grads.flat().data(), mask.ranges()};
    Net::template backward<T>(ctx, weights.ref(), grads.ref(), t.output_grad(), matrix_view<T>{});
}

}  // namespace mox::inline MOX_ABI
