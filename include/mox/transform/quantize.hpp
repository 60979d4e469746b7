#pragma once

// A network with weights of fewer bits, as a type and as numbers.

#include <mox/compose/repeat.hpp>
#include <mox/compose/residual.hpp>
#include <mox/compose/stack.hpp>
#include <mox/layer/adapted_ffn.hpp>
#include <mox/layer/attention.hpp>
#include <mox/layer/depth.hpp>
#include <mox/layer/frozen.hpp>
#include <mox/layer/lora.hpp>
#include <mox/layer/lora_pool.hpp>
#include <mox/layer/moe.hpp>
#include <mox/layer/observed.hpp>
#include <mox/model/transfer.hpp>

namespace mox::inline MOX_ABI {

namespace detail {

template <class F>
consteval bool check_weight_format() {
    static_assert(
        std::is_same_v<F, weight::f32> ||
            requires {
                { F::row_rule } -> std::convertible_to<weight::rows>;
                { F::bytes_of_column(index_t{1}) } -> std::convertible_to<index_t>;
            },
        "mox::with_weights: the second argument must be a weight format, such as mox::weight::bf16, "
        "mox::weight::int8<> or mox::weight::int4<>");
    return true;
}

// Layers without weight matrices, and those nobody has taught formats, stay as they are.
template <class L, class F>
struct rewritten {
    using type = L;
};

}  // namespace detail

/// `L` with every linear map, feed-forward network, expert and attention map in weight format `F`. Routers,
/// norms, embeddings, adapters and biases stay as they are, so do mox::mixlora and the experts of
/// mox::lora_expert (mox::merge first). Adapters around a packed map are trained on it (QLoRA, arXiv
/// 2305.14314). A layer of your own takes part by specialising mox::rewrite_weights.
template <class L, class F>
struct rewrite_weights : detail::rewritten<L, F> {};

namespace detail {
template <class L, class F>
struct with_weights_of : rewrite_weights<L, F> {
    static_assert(check_weight_format<F>());
};
template <class L>
struct with_weights_of<L, weight::f32> {
    using type = L;
};
}  // namespace detail

template <class L, class F>
using with_weights = typename detail::with_weights_of<L, F>::type;

namespace detail {

// Wraps what an adapter wraps, in another format.
template <class F, class Adapter>
struct adapter_with_weights {
    template <class L>
    using around = typename Adapter::template around<with_weights<L, F>>;
    template <class L, index_t... Widths>
    using around_parts = typename around_fused<Adapter, with_weights<L, F>, Widths...>::type;
};

// Policies of a mixture: shared layers have weights, the others have none.
template <class P, class F>
struct rewritten_policy {
    using type = P;
};
template <class L, class F>
struct rewritten_policy<shared<L>, F> {
    using type = shared<with_weights<L, F>>;
};

template <class Body, class F>
struct rewritten_body {
    using type = Body;
};
template <index_t D, index_t H, class Act, bool Gated, bias Bias, class F>
struct rewritten_body<two_matrix_ffn<D, H, Act, Gated, Bias>, F> {
    using type = ffn_body<D, H, Act, Gated, Bias, F>;
};

}  // namespace detail

template <class F, index_t In, index_t Out, bias Bias, bool Residual>
struct rewrite_weights<linear<In, Out, Bias, Residual, weight::f32>, F> {
    using type = linear<In, Out, Bias, Residual, F>;
};
template <class F, class Body>
struct rewrite_weights<feed_forward<Body>, F> {
    using type = feed_forward<typename detail::rewritten_body<Body, F>::type>;
};
template <class F, index_t E, class Body, class... Policies>
struct rewrite_weights<moe<experts<E, Body>, Policies...>, F> {
    using type =
        moe<experts<E, with_weights<Body, F>>, typename detail::rewritten_policy<Policies, F>::type...>;
};
template <class F, attention_spec Spec, class Mask, class Adapter>
struct rewrite_weights<attention<Spec, Mask, Adapter>, F> {
    using type = attention<Spec, Mask, detail::adapter_with_weights<F, Adapter>>;
};
template <class F, index_t D, index_t H, class Act, class Adapter, bool Gated, bias Bias>
struct rewrite_weights<adapted_ffn<D, H, Act, Adapter, Gated, Bias>, F> {
    using type = adapted_ffn<D, H, Act, detail::adapter_with_weights<F, Adapter>, Gated, Bias>;
};
template <class F, class Base, adapter_spec Spec, class Gate>
struct rewrite_weights<lora<Base, Spec, Gate>, F> {
    using type = lora<with_weights<Base, F>, Spec, Gate>;
};
template <class F, class Base, pool_spec Spec>
struct rewrite_weights<lora_pool<Base, Spec>, F> {
    using type = lora_pool<with_weights<Base, F>, Spec>;
};
template <class F, class L>
struct rewrite_weights<frozen<L>, F> {
    using type = frozen<with_weights<L, F>>;
};
template <class F, class L>
struct rewrite_weights<observed<L>, F> {
    using type = observed<with_weights<L, F>>;
};
template <class F, class Block, class... Policies>
struct rewrite_weights<depth<Block, Policies...>, F> {
    using type = depth<with_weights<Block, F>, Policies...>;
};
template <class F, class... Ls>
struct rewrite_weights<stack<Ls...>, F> {
    using type = stack<with_weights<Ls, F>...>;
};
template <class F, class... Ls>
struct rewrite_weights<residual<Ls...>, F> {
    using type = residual<with_weights<Ls, F>...>;
};
template <class F, index_t N, class Block>
struct rewrite_weights<repeat<N, Block>, F> {
    using type = repeat<N, with_weights<Block, F>>;
};

/// What mox::quantize did with one packed tensor.
struct quantized_tensor {
    std::string path;
    std::string_view format;
    index_t bytes = 0;             ///< in memory now
    index_t bytes_before = 0;      ///< and in the source
    double largest_error = 0;      ///< of one weight
    double mean_square_error = 0;  ///< mean (w - w')^2
};

/// Copies trained parameters into the same network with weights of other formats, rounding to them:
///   using small = mox::with_weights<net, mox::weight::int8<>>;
///   mox::params<small> packed;
///   auto report = mox::quantize(trained, packed);
/// Tensors find each other as in mox::copy_matching, and it throws as that does; besides, mox::error names a
/// tensor of `to` that the source does not have. `to` is then unchanged. Returns one entry per packed tensor.
template <class From, class T, class To, class U>
std::vector<quantized_tensor> quantize(const params<From, T>& from, params<To, U>& to) {
    const detail::tensor_matches matches = detail::match_tensors(from, to);
    const auto from_tensors = params<From, T>::tensors();
    const auto to_tensors = params<To, U>::tensors();
    if (!matches.kept.empty()) {
        check::fail("mox::quantize", "tensor '" + to_tensors[matches.kept.front()].path +
                                         "' has no counterpart in the source; 'to' must be the same network, "
                                         "such as mox::with_weights<net, mox::weight::int8<>>");
    }
    detail::copy_matches(matches, from, to);
    std::vector<quantized_tensor> report;
    for (const auto& [j, i] : matches.pairs) {
        const tensor_info &source = from_tensors[j], &t = to_tensors[i];
        if (!t.spec.packing) continue;
        quantized_tensor entry{t.path, t.spec.packing->name, params<To, U>::bytes(t),
                               params<From, T>::bytes(source)};
        const auto before = from.read(source);
        const auto after = to.read(t);
        for (std::size_t n = 0; n < before.size(); ++n) {
            const double d = static_cast<double>(before[n]) - static_cast<double>(after[n]);
            entry.largest_error = std::max(entry.largest_error, std::abs(d));
            entry.mean_square_error += d * d / static_cast<double>(before.size());
        }
        report.push_back(std::move(entry));
    }
    return report;
}

}  // namespace mox::inline MOX_ABI
