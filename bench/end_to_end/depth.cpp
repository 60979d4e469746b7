// What mixture of depths costs beside the block it spares: the whole layer (score, selection, gather, block,
// scatter) against the same block over all tokens, and a small vision transformer.

#include <mox/mox.hpp>

#include "support/depth_networks.hpp"
#include "support/solved.hpp"

namespace {

using bench::index_t;
using bench::steps;

constexpr index_t tokens = 256, width = 256;

// The parts that are linear in tokens.
using linear_block = mox::residual<mox::rms_norm<width>, mox::swiglu<width, 704>>;
template <index_t Permille>
using sparse = mox::depth<linear_block, mox::route::learned, mox::keep_permille<Permille>,
                          mox::sampling::whole_sequence>;

template <index_t Permille>
void add_capacity(std::vector<bench::group>& groups) {
    using layer = sparse<Permille>;
    constexpr double share = Permille / 1000.0;
    const double dense = tokens * linear_block::flops(tokens), mine = tokens * layer::flops(tokens);
    const std::string shape = "c" + std::to_string(Permille) + "_T256_D256_H704";
    const std::vector<bench::goal> goals{{0, 0, "dense_block", share + 0.05}};
    groups.push_back(
        {"depth/forward/" + shape,
         mine,
         bench::limit::fma_f32,
         goals,
         {{"mox", bench::run(&steps<layer>::infer, index_t{1}, index_t{1}, tokens)},
          {"dense_block", bench::run(&steps<linear_block>::infer, index_t{1}, index_t{1}, tokens), dense}}});
    groups.push_back(
        {"depth/forward_backward/" + shape,
         3 * mine,
         bench::limit::fma_f32,
         goals,
         {{"mox", bench::run(&steps<layer>::train, index_t{1}, index_t{1}, tokens)},
          {"dense_block", bench::run(&steps<linear_block>::train, index_t{1}, index_t{1}, tokens),
           3 * dense}}});
}

// A whole block, attention and feed-forward: what the kept tokens cost as a sequence of their own is the
// least that a layer which keeps them can take.
template <index_t Permille>
void add_block_capacity(std::vector<bench::group>& groups) {
    constexpr index_t length = 1024, wide = 256;
    constexpr mox::attention_spec of_block{.width = wide, .heads = 4};
    using block = mox::stack<mox::residual<mox::rms_norm<wide>, mox::attention<of_block, mox::mask::causal>>,
                             mox::residual<mox::rms_norm<wide>, mox::swiglu<wide, 704>>>;
    using layer =
        mox::depth<block, mox::route::learned, mox::keep_permille<Permille>, mox::sampling::whole_sequence>;
    constexpr index_t kept = length * Permille / 1000;
    const double work = static_cast<double>(kept) * block::flops(kept / 2.0);
    const std::string shape = "block_c" + std::to_string(Permille) + "_T1024_D256_h4_H704";
    const std::vector<bench::goal> goals{{.peer = "kept_alone", .at_most = 1.06}};
    groups.push_back({"depth/forward/" + shape,
                      work,
                      bench::limit::fma_f32,
                      goals,
                      {{"mox", bench::run(&steps<layer>::infer, index_t{1}, index_t{1}, length)},
                       {"kept_alone", bench::run(&steps<block>::infer, index_t{1}, index_t{1}, kept)}}});
    groups.push_back({"depth/forward_backward/" + shape,
                      3 * work,
                      bench::limit::fma_f32,
                      goals,
                      {{"mox", bench::run(&steps<layer>::train, index_t{1}, index_t{1}, length)},
                       {"kept_alone", bench::run(&steps<block>::train, index_t{1}, index_t{1}, kept)}}});
}

// Somebody reads the attention received, or nobody does; both copy their rows.
template <bool Reads>
struct reader {
    static constexpr index_t in = width, out = width;
    using reads = std::conditional_t<Reads, mox::leaves<mox::signal::attention_received>, mox::leaves<>>;
    static constexpr double flops(double) { return 0; }
    template <class T>
    static void forward(mox::context<T>& ctx, mox::param_ref<reader, const T>, mox::matrix_view<const T> x,
                        mox::matrix_view<T> y) {
        mox::kernel::copy_rows<T>(ctx.exec, x, y);
    }
    template <class T>
    static void backward(mox::context<T>& ctx, mox::param_ref<reader, const T>, mox::param_ref<reader, T>,
                         mox::matrix_view<const T> dy, mox::matrix_view<T> dx) {
        mox::kernel::copy_rows<T>(ctx.exec, dy, dx);
    }
};
constexpr mox::attention_spec heads{.width = width, .heads = 4, .rotary = false};
template <bool Reads>
using listened = mox::stack<mox::attention<heads, mox::mask::full>, reader<Reads>>;

const bench::registration add([](std::vector<bench::group>& groups) {
    add_capacity<500>(groups);
    add_capacity<250>(groups);
    add_capacity<125>(groups);
    add_block_capacity<500>(groups);
    add_block_capacity<250>(groups);
    add_block_capacity<125>(groups);
    groups.push_back(
        {"attention_received/forward/T256_D256_h4",
         tokens * listened<true>::flops(tokens),
         bench::limit::fma_f32,
         {{0, 0, "nobody_reads", 1.10}},
         {{"mox", bench::run(&steps<listened<true>>::infer, index_t{1}, index_t{1}, tokens)},
          {"nobody_reads", bench::run(&steps<listened<false>>::infer, index_t{1}, index_t{1}, tokens)}}});
    const auto network = [&]<class Net>(const std::string& name, std::type_identity<Net>) {
        using namespace bench::depth_networks;
        const double flops = sequences * length * Net::flops(length);
        bench::solutions()[name] = [] {
            steps<Net> mox(1, sequences, length);
            return bench::solve<Net>(mox);
        };
        groups.push_back({name + "/forward_backward/" + shape,
                          3 * flops,
                          bench::limit::fma_f32,
                          {{0, 1.0, "libtorch"}},
                          {{"mox", bench::run(&steps<Net>::train, index_t{1}, sequences, length)}}});
        groups.push_back({name + "/forward/" + shape,
                          flops,
                          bench::limit::fma_f32,
                          {{0, 1.0, "libtorch"}},
                          {{"mox", bench::run(&steps<Net>::infer, index_t{1}, sequences, length)}}});
    };
    network("vit_dense", std::type_identity<bench::depth_networks::dense>{});
    network("vit_mod", std::type_identity<bench::depth_networks::mod>{});
    network("vit_amod", std::type_identity<bench::depth_networks::amod>{});
});

}  // namespace
