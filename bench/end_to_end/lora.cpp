// Low-rank adapters that use some of their ranks, beside one that uses all of them, and beside the loop an
// engineer writes first: the full-width output of every expert formed and added. The base is left out on both
// sides: it costs the same whatever the gate does.

#include <algorithm>
#include <numeric>
#include <string>

#include <Eigen/Core>

#include "support/agreement.hpp"
#include "support/solved.hpp"

namespace {

using mox::index_t;

// The rows of 1024 values stay in the caches, those of 4096 (LLaMA 7B) come from memory.
constexpr index_t tokens = 512, width = 1024, wide = 4096;

// The adapter alone: y stays what it is, so that neither side pays for a pass over y that belongs to a base.
template <index_t Width>
struct no_base_of {
    static constexpr index_t in = Width, out = Width;
    static constexpr double flops(double /*context*/) { return 0; }
    template <class T>
    static void forward(mox::context<T>&, mox::param_ref<no_base_of, const T>, mox::matrix_view<const T>,
                        mox::matrix_view<T>) {}
    template <class T>
    static void backward(mox::context<T>& ctx, mox::param_ref<no_base_of, const T>,
                         mox::param_ref<no_base_of, T>, mox::matrix_view<const T>, mox::matrix_view<T> dx) {
        if (!ctx.input_gradient) return;
        for (index_t t = 0; t < dx.rows; ++t) std::fill_n(dx.row(t), dx.cols, T(0));
    }
};

constexpr mox::adapter_spec r8{.rank = 8}, r32{.rank = 32}, r64{.rank = 64};
using no_base = no_base_of<width>;
template <index_t Width = width>
using dense_64 = mox::lora<no_base_of<Width>, r64>;
template <index_t Width = width>
using dense_32 = mox::lora<no_base_of<Width>, r32>;
template <index_t K, index_t Width = width>
using mola_of = mox::lora_experts<no_base_of<Width>, 8, r8, mox::route::top_k<K>>;
using mola = mola_of<2>;
template <index_t Width = width>
using smora = mox::lora<no_base_of<Width>, r64, mox::rank_gate::sigmoid_top_k<8>>;
template <index_t Width = width>
using flylora = mox::lora<no_base_of<Width>, r32, mox::rank_gate::strongest<8>>;

// An adapter starts with B = 0; one that has learned something lets peers be compared with it.
template <class Layer>
struct taught : bench::steps<Layer> {
    taught() : bench::steps<Layer>(1, 1, tokens) {
        const mox::buffer<float> b = bench::random_rows(64, width, 3);
        std::vector<float> values(b.data(), b.data() + b.size());
        for (float& v : values) v *= 0.03f;
        this->weights.write("b", values);
    }
    void infer_taught() { this->infer(); }
    void train_taught() { this->train(); }
};

// Top-2 of 8 experts of rank 8, expert by expert.
struct eigen_experts {
    using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    matrix router, x, y;
    std::vector<matrix> a, b;

    eigen_experts() : y(tokens, width) {
        taught<mola> mox;
        const bench::solved p = bench::solve<mola>(mox);
        const auto at = [](const std::vector<float>& v, index_t first, index_t rows, index_t cols) {
            return Eigen::Map<const matrix>(v.data() + first, rows, cols);
        };
        x = at(p.x, 0, tokens, width);
        router = at(p.tensors[0].value, 0, width, 8);
        for (index_t e = 0; e < 8; ++e) {
            a.push_back(at(p.tensors[1].value, e * 8 * width, 8, width).transpose());
            b.push_back(at(p.tensors[2].value, e * 8 * width, 8, width));
        }
        infer();
        bench::must_agree("eigen", "the output of low-rank experts", {y.data(), p.y.size()}, p.y,
                          bench::float_bound);
    }

    void infer() {
        const matrix logits = x * router;
        matrix gate = matrix::Zero(tokens, 8);
        for (index_t t = 0; t < tokens; ++t) {
            int order[8];
            std::iota(order, order + 8, 0);
            std::partial_sort(order, order + 2, order + 8,
                              [&](int i, int j) { return logits(t, i) > logits(t, j); });
            const float g = 1.0f / (1.0f + std::exp(logits(t, order[1]) - logits(t, order[0])));
            gate(t, order[0]) = g;
            gate(t, order[1]) = 1 - g;
        }
        y.setZero();
        for (std::size_t e = 0; e < 8; ++e) {
            const matrix out = (x * a[e]) * b[e];
            y += gate.col(static_cast<Eigen::Index>(e)).asDiagonal() * out;
        }
    }
};

// Sixteen sequences, each with one of eight adapters: one call for the batch, or a call for every adapter.
// Small batches read the base's weights once instead of eight times.
constexpr index_t pool_ranks[8] = {4, 8, 8, 16, 16, 32, 32, 64};
template <class Base, index_t Length>
struct served {
    using pool = mox::lora_pool<Base, mox::pool_spec{.adapters = 8, .ranks = 180}>;
    bench::steps<pool> all{1, 16, Length}, part{1, 2, Length};

    served() {
        std::vector<float> first, rank;
        std::vector<mox::row_t> labels;
        float next = 0;
        for (const index_t r : pool_ranks) {
            labels.insert(labels.end(), 2, static_cast<mox::row_t>(rank.size()));
            first.push_back(next);
            rank.push_back(static_cast<float>(r));
            next += rank.back();
        }
        all.weights.write("first", first);
        all.weights.write("rank", rank);
        all.weights.write("scale", std::vector<float>(8, 1.0f));
        part.weights = all.weights;
        all.rows.with_labels(labels);
    }
    void together() { all.infer(); }
    void one_by_one() {
        for (mox::row_t e = 0; e < 8; ++e) {
            part.rows.with_labels({e, e});
            part.infer();
        }
    }
};
// The same with every adapter filled up to the largest rank.
constexpr mox::adapter_spec widest{.rank = 64};
using filled = mox::lora_experts<no_base, 8, widest, mox::route::by_label, mox::gate::one>;
struct served_filled {
    bench::steps<filled> all{1, 16, tokens / 16};
    served_filled() { all.rows.with_labels({0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7}); }
    void together() { all.infer(); }
};

template <class Layer>
bench::competitor infer(const char* who) {
    return {who, bench::run(&bench::steps<Layer>::infer, index_t{1}, index_t{1}, tokens)};
}
template <class Layer>
bench::competitor train(const char* who) {
    return {who, bench::run(&bench::steps<Layer>::train, index_t{1}, index_t{1}, tokens)};
}

// MixLoRA, top-2 of 8 experts around one feed-forward network, beside the network run for every (token,
// expert) pair: the same adapters on twice the rows.
constexpr index_t d = 512, h = 1024;
constexpr mox::mixlora_spec around_one{.adapter = r8};
using mixlora = mox::mixlora<d, h, mox::activation::silu, 8, around_one, mox::route::top_k<2>>;
using adapted = mox::adapted_ffn<d, h, mox::activation::silu, mox::with_lora<r8>>;

// Eight experts with an update of rank 8 for each of their maps, beside the experts alone: 1.02 of the
// products.
using experts_alone = mox::moe<mox::experts<8, mox::swiglu<d, h>>, mox::route::top_k<2>>;
using experts_adapted =
    mox::moe<mox::experts<8, mox::lora_expert<mox::swiglu<d, h>, r8>>, mox::route::top_k<2>>;

// Adapters whose cost follows the gate, in units of the adapter with all ranks.
//
// A quarter of the ranks of flylora are a quarter of the sums, and still not a quarter of the time: products
// with everything run at 0.85 of the peak, products with what was picked at one load a multiply-add. Measured
// apart with 1024 columns, of 0.235 ms (all ranks 0.68): the sparse sums and the turning of x 0.122 (0.07 at
// the peak, 0.094 the sums alone), the expansion 0.101 (0.07 at the peak, 0.09 with the loads and stores of
// y), the choice 0.006, what counts it 0.003. At the peak all of it would be 0.21 of the time of all ranks.
// On a core with two multiply-adds of 512 bits a cycle and 2 MB of its own (Emerald Rapids) the sums run at
// 0.38 of the peak and the expansion at 0.46: a quarter of the products for the same rows of x and y. It
// takes 0.50 there with 1024 columns and 0.47 with 4096 (0.73 and 1.1 before rows were asked for in advance).
//
// Tried, on the Zen 4, for the sums: lanes as ranks and permuted tokens (0.139: a permutation and a
// multiply-add take 1.33 steps, and random places need 1.3 times as many), three and four rows that share
// loads (1.00 and 1.02 of two: the lists become short), the two rows of a pair in turns (1.00), sums of a
// block added last (1.00), registers of a column apart (1.00), stores of half a register (1.00), 48 and more
// tokens (1.00, 1.03), blocks of 32 to 128 columns, lines of x asked for in advance (1.00: asking costs as
// much as two loads); for the expansion: unrolled lists, more tokens a panel (1.00), wider panels (1.11),
// lines asked for in advance, pairs of tokens with many ranks in common that load those once (0.95, and
// finding pairs takes 0.08).
template <index_t Width>
void add_gated(std::vector<bench::group>& groups, const std::string& name) {
    const double full = 4.0 * tokens * Width;
    groups.push_back({"lora/forward/smora_8_of_64" + name,
                      full * 64,
                      bench::limit::none,
                      {{0, 0, "all_ranks", 0.70}},
                      {infer<smora<Width>>("mox"), infer<dense_64<Width>>("all_ranks")}});
    groups.push_back({"lora/forward/flylora_8_of_32" + name,
                      full * 32,
                      bench::limit::none,
                      {{0, 0, "all_ranks", 0.35}},
                      {infer<flylora<Width>>("mox"), infer<dense_32<Width>>("all_ranks")}});
}

const bench::registration add([](std::vector<bench::group>& groups) {
    const double full = 4.0 * tokens * width;
    using map = mox::linear<width, width>;
    bench::solutions()["lora/2_of_8_experts_rank_8"] = [] {
        taught<mola> mox;
        return bench::solve<mola>(mox);
    };
    groups.push_back({"lora/forward/2_of_8_experts_rank_8",
                      full * 64,
                      bench::limit::none,
                      {{0, 0, "all_ranks", 0.45}, {0, 2.0, "eigen"}, {0, 2.0, "libtorch"}},
                      {{"mox", bench::run(&taught<mola>::infer_taught)},
                       infer<dense_64<>>("all_ranks"),
                       {"eigen", bench::run(&eigen_experts::infer)}}});
    groups.push_back({"lora/forward_backward/2_of_8_experts_rank_8",
                      3 * full * 64,
                      bench::limit::none,
                      {{0, 0, "all_ranks", 0.85}},
                      {{"mox", bench::run(&taught<mola>::train_taught)}, train<dense_64<>>("all_ranks")}});
    // Where computing all ranks becomes the cheaper way (low_rank::prefers_dense): 6 of 8 experts still run
    // on their own rows, 7 of 8 as plain products with zeros for the rest.
    groups.push_back({"lora/crossover/6_and_7_of_8_experts",
                      full * 64,
                      bench::limit::none,
                      {},
                      {infer<mola_of<6>>("mox"), infer<mola_of<7>>("7_of_8"), infer<mola_of<5>>("5_of_8"),
                       infer<dense_64<>>("all_ranks")}});
    // The frozen base of an adapter is the map itself.
    groups.push_back({"lora/forward/base_alone",
                      2.0 * tokens * width * width,
                      bench::limit::fma_f32,
                      {{0, 0, "linear", 1.05}},
                      {infer<mox::stack<mox::frozen<map>>>("mox"), infer<mox::stack<map>>("linear")}});
    groups.push_back({"lora/forward/8_adapters_of_rank_4_to_64",
                      full * 180 / 8,
                      bench::limit::none,
                      {{0, 1.5, "one_rank"}},
                      {{"mox", bench::run(&served<no_base, tokens / 16>::together)},
                       {"one_by_one", bench::run(&served<no_base, tokens / 16>::one_by_one)},
                       {"one_rank", bench::run(&served_filled::together)}}});
    groups.push_back({"lora/decode/16_sequences_8_adapters",
                      2.0 * 16 * width * width + 4.0 * 16 * width * 180 / 8,
                      bench::limit::none,
                      {{0, 1.1, "one_by_one"}},
                      {{"mox", bench::run(&served<map, 1>::together)},
                       {"one_by_one", bench::run(&served<map, 1>::one_by_one)}}});
    add_gated<width>(groups, "");
    // Two experts add to a row: it comes from memory twice.
    groups.push_back({"lora/forward/2_of_8_experts_rank_8/D4096",
                      4.0 * tokens * wide * 64,
                      bench::limit::none,
                      {{0, 0, "all_ranks", 0.50}},
                      {infer<mola_of<2, wide>>("mox"), infer<dense_64<wide>>("all_ranks")}});
    add_gated<wide>(groups, "/D4096");
    groups.push_back({"lora/forward/experts_with_updates",
                      6.0 * d * h * 2 * tokens,
                      bench::limit::none,
                      {{0, 0, "experts_alone", 1.20}},
                      {infer<experts_adapted>("mox"), infer<experts_alone>("experts_alone")}});
    groups.push_back({"lora/forward_backward/experts_with_updates",
                      18.0 * d * h * 2 * tokens,
                      bench::limit::none,
                      {{0, 0, "experts_alone", 0.90}},
                      {train<experts_adapted>("mox"), train<experts_alone>("experts_alone")}});
    const double per_pair = 6.0 * d * h + 3 * 2.0 * 8 * (d + h);
    groups.push_back({"lora/forward/mixlora_2_of_8_experts",
                      per_pair * 2 * tokens,
                      bench::limit::none,
                      {{0, 0, "base_per_expert", 0.80}},
                      {infer<mixlora>("mox"),
                       {"base_per_expert",
                        bench::run(&bench::steps<adapted>::infer, index_t{1}, index_t{1}, 2 * tokens)}}});
});

}  // namespace
